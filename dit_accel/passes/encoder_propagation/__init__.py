"""Faster Diffusion: the encoder of a denoiser runs at key steps only, and serves the decoders of the steps between."""
