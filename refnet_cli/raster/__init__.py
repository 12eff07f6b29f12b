"""Raster and vector files of strangers, opened with care."""
