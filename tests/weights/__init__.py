"""Tests of the scripts in weights/."""
