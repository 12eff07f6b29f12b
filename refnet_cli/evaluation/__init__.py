"""Evaluation: score a map against reference labels."""
