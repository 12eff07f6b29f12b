"""Tests of refnet; each file mirrors one of the package."""
