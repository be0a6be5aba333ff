"""Measures what an acceleration does: times, fidelity to the plain pipeline, reuse; all of it into one report."""
