"""``PixArtAlphaPipeline`` with call defaults for a 64 x 64 model.

The stock call turns on resolution binning, which knows latents of 32, 64 and 128 only and raises "Invalid sample
size" for our 16 x 16; it cleans captions, which needs two packages and warns twice a call without them; and it pads
captions to 120 tokens, more than the 64 of the image, which changes nothing but the time (padding is masked).
diffusers keeps no call defaults in ``model_index.json``, so a subclass with other defaults is the only way that
leaves the saved folder plain. It keeps the stock class name, under which it is saved, and differs in nothing else.
"""

import diffusers

from dit_accel.embedded.call_defaults import with_defaults

CALL_DEFAULTS = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 32}


class PixArtAlphaPipeline(diffusers.PixArtAlphaPipeline):
    """The stock pipeline called with ``CALL_DEFAULTS``; each of them can still be given."""

    __call__ = with_defaults(diffusers.PixArtAlphaPipeline.__call__, CALL_DEFAULTS)
