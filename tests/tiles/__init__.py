"""Tests of refnet_cli.tiles."""
