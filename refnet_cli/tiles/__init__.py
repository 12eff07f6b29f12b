"""Tile arithmetic on arrays: layout, gap filling, stitching and smoothing."""
