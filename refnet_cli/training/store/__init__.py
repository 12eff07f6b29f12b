"""The training store: scenes that are brought onto their grid once, so that a crop costs a copy."""
