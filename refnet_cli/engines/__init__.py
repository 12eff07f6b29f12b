"""Engines: from patches of two sensors to class probabilities."""
