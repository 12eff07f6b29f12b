"""Tests of refnet_cli.outputs."""
