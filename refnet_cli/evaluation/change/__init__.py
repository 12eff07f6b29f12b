"""Change between two class maps: areas of transitions, a map, tables, and estimates from a sample."""
