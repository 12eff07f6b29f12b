"""Diagnostics: what is installed on this machine, and whether prediction works."""
