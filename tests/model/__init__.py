"""Tests of refnet_cli.model."""
