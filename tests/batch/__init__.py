"""Tests of refnet_cli.batch."""
