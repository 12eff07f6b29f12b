"""Arithmetic of tiles on arrays: where they lie, how they are filled, stitched and smoothed."""
