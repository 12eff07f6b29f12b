"""Augmentation: random changes to crops that imitate other sensors and other days."""
