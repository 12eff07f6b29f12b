"""Tests of refnet_cli.training."""
