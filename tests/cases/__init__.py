"""Kinds of input that users have and that once failed, one file a kind."""
