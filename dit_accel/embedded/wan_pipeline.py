"""``WanPipeline`` with call defaults for 16 frames of 64 x 64.

The stock call asks for 81 frames of 480 x 832 and pads captions to 512 tokens; ours was trained with 16, and padding
is not masked, so the length is part of the model. It also wants ``num_frames - 1`` divisible by the temporal
compression and rounds otherwise; without compression that adds a frame to every number, with a warning. diffusers
keeps no call defaults in ``model_index.json``, so, as in ``pixart.py``, a subclass of the same name sets them.
"""

import functools
from typing import Any

import diffusers

from dit_accel.embedded.call_defaults import with_defaults

IMAGE_PX = 64
NUM_FRAMES = 16
MAX_SEQUENCE_LENGTH = 16
NUM_INFERENCE_STEPS = 20
GUIDANCE_SCALE = 3.0
CALL_DEFAULTS = {
    "height": IMAGE_PX,
    "width": IMAGE_PX,
    "num_frames": NUM_FRAMES,
    "num_inference_steps": NUM_INFERENCE_STEPS,
    "guidance_scale": GUIDANCE_SCALE,
    "max_sequence_length": MAX_SEQUENCE_LENGTH,
}


def _call(self: Any, *, num_frames: int, **kwargs: Any) -> Any:
    """Make exactly ``num_frames`` frames where the autoencoder does not compress time."""
    if self.vae_scale_factor_temporal != 1:
        return diffusers.WanPipeline.__call__(self, num_frames=num_frames, **kwargs)
    # Without temporal compression the stock rounding adds one frame and warns. With a factor of two it accepts any
    # odd number 2 F - 1 as it is and makes F latent frames of it.
    self.vae_scale_factor_temporal = 2
    try:
        return diffusers.WanPipeline.__call__(self, num_frames=2 * num_frames - 1, **kwargs)
    finally:
        self.vae_scale_factor_temporal = 1


class WanPipeline(diffusers.WanPipeline):
    """The stock pipeline called with ``CALL_DEFAULTS``; each of them can still be given."""

    __call__ = with_defaults(functools.wraps(diffusers.WanPipeline.__call__)(_call), CALL_DEFAULTS)
