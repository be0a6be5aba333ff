"""Post-training quantisation of the weights and activations of a denoiser."""
