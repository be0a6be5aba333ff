"""``emoji-flux`` called with nothing but a prompt.

``FluxPipeline``'s call defaults to 1024 x 1024 pixels at a scale factor of 8 (512 at our 4) and to 512 text tokens
without a mask, while the pipeline was trained with 16. Neither is a setting that a saved pipeline can hold, so a
subclass with other defaults is the only way that leaves the saved folder plain. It keeps the stock class name, under
which it is saved, and differs in nothing else.
"""

import diffusers

from dit_accel.embedded.call_defaults import with_defaults

IMAGE_PX = 64
MAX_SEQUENCE_LENGTH = 16
CALL_DEFAULTS = {"height": IMAGE_PX, "width": IMAGE_PX, "max_sequence_length": MAX_SEQUENCE_LENGTH}


class FluxPipeline(diffusers.FluxPipeline):
    """The stock pipeline called with ``CALL_DEFAULTS``; each of them can still be given."""

    __call__ = with_defaults(diffusers.FluxPipeline.__call__, CALL_DEFAULTS)
