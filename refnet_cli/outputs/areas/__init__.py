"""Areas of the classes, on the full map and in zones."""
