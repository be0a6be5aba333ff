"""Acceleration passes: one technique, one file."""
