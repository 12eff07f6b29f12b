"""Optical and SAR files on a common grid: file detection, reading, and the grid of the result."""
