"""Outputs to look at: a preview and an HTML report."""
