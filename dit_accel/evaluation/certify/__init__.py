"""Certifies a plan on held-out prompts: the subject, the resumable job, the result."""
