"""Training: from labelled scenes to weights."""
