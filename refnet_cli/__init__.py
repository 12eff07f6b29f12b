"""Land use and land cover maps from Sentinel-1 and Sentinel-2 scenes with REF-Net."""

__version__ = "0.1.0"
