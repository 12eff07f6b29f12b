"""Tests of refnet_cli.scan."""
