"""A pair of sensors on one grid: what the files are, how they are read, and where the result lies."""
