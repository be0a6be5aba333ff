"""A check-up of a pipeline: what was found, what it costs, which passes can act on it."""
