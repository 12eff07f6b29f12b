"""Tests of refnet_cli.classes."""
