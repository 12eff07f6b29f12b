"""Crops changed at random, as other sensors and days would show the same ground."""
