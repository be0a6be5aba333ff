"""``WanPipeline`` with call defaults for 16 frames of 64 x 64.

The stock call asks for 81 frames of 480 x 832 and pads captions to 512 tokens; ours was trained with 16, and padding
is not masked, so the length is part of the model. It also wants ``num_frames - 1`` divisible by the temporal
compression and rounds otherwise; without compression that adds a frame to every number, with a warning. diffusers
keeps no call defaults in ``model_index.json``, so, as in ``pixart.py``, a subclass of the same name sets them.
"""

import functools
from typing import Any

import diffusers

CALL_DEFAULTS = {
    "height": 64,
    "width": 64,
    "num_inference_steps": 20,
    "guidance_scale": 4.0,
    "max_sequence_length": 16,
}
NUM_FRAMES = 16


class WanPipeline(diffusers.WanPipeline):
    """The stock pipeline called with ``CALL_DEFAULTS``; each of them can still be given."""

    @functools.wraps(diffusers.WanPipeline.__call__)
    def __call__(self, *args: Any, num_frames: int = NUM_FRAMES, **kwargs: Any) -> Any:
        """Generate ``num_frames`` frames; see ``diffusers.WanPipeline``."""
        if self.vae_scale_factor_temporal != 1:
            return super().__call__(*args, num_frames=num_frames, **{**CALL_DEFAULTS, **kwargs})
        # Without temporal compression the stock rounding adds one frame and warns. With a factor of two it accepts
        # any odd number 2 F - 1 as it is and makes F latent frames of it.
        self.vae_scale_factor_temporal = 2
        try:
            return super().__call__(*args, num_frames=2 * num_frames - 1, **{**CALL_DEFAULTS, **kwargs})
        finally:
            self.vae_scale_factor_temporal = 1
