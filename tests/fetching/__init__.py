"""Tests of refnet_cli.fetching: `refnet fetch` against servers on this machine, and its modules alone."""
