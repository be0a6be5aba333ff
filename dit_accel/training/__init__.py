"""Training of the embedded pipelines."""
