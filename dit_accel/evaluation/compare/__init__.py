"""Runs a pipeline plain and accelerated in turn, times both and says what changed."""
