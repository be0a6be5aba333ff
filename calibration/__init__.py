"""Finds schedules, bit-widths and masks for a given pipeline."""
