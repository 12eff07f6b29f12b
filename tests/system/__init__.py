"""Tests of refnet_cli.system."""
