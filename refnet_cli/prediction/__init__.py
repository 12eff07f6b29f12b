"""From a scene pair to a map and its further outputs."""
