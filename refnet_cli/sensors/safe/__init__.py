"""Metadata of Sentinel-1 and Sentinel-2 SAFE products: files, scaling, UTM zones, calibration.

Only metadata is read, from a folder or directly from a zip, and none of it is trusted. Rasters are listed, not opened.
"""
