"""Raster and vector files from untrusted sources, opened safely."""
