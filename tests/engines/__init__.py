"""Tests of refnet_cli.engines."""
