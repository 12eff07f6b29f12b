"""What is known of sensors."""
