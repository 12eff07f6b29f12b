"""How good a map is, by labels."""
