"""One accelerated pipeline: which passes in which order, presets, and what it says of itself."""
