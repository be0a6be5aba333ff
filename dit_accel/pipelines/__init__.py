"""Pipelines as wholes: loading them, running them with seeds, and saving what they make."""
