"""Tests of refnet_cli.sensors."""
