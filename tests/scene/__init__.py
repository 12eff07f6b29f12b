"""Tests of refnet_cli.scene."""
