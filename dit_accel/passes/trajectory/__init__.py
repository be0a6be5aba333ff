"""Few denoiser calls are computed, the others answered by fitted combinations of earlier outputs."""
