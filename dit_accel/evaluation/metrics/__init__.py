"""Numbers of images and videos: fidelity to the plain run, distances to real sets, alignment, motion."""
