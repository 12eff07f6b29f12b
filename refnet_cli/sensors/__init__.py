"""What is known of Sentinel-1 and Sentinel-2: bands, units, offsets, names of files, and how each is found out."""
