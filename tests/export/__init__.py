"""Tests of refnet_cli.export."""
