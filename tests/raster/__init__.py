"""Tests of refnet_cli.raster."""
