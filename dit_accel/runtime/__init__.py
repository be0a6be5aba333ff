"""Runs one denoiser under a plan: ledger, clock, sites, kept values, rows. What every pass stands on."""
