"""Tests of refnet_cli.evaluation."""
