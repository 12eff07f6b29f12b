"""The version of refnet."""

__version__ = "0.2.0"
