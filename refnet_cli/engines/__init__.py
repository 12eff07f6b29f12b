"""From patches of two sensors to class probabilities."""
