"""Tests of refnet_cli.doctor."""
