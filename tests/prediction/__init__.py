"""Tests of refnet_cli.prediction."""
