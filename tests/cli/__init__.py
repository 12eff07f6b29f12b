"""Tests of refnet_cli.cli."""
