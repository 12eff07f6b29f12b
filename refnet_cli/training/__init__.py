"""From scenes with labels to weights."""
