"""Patch parallelism: several ranks compute one picture, each its own rows, and every byte between them is counted."""
