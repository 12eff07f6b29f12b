"""The network, its settings and its weights."""
