"""The smallest sample call of a live denoiser that still tells rows from columns: what proofs are run on."""

from typing import Any

import torch
from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.base import Family, config_of

# Token rows and columns: not square, unless the model takes nothing else.
_GRIDS = ((8, 12), (8, 8))
_LATENT_FRAMES = 2
_TEXT_TOKENS = 16


def small_call(model: nn.Module, family: Family, vae_scale: tuple[int, int] | None = None) -> dict[str, Any]:
    """Keyword arguments of one small call that the model has answered.

    Args:
        model: The denoiser; it is run, without gradients.
        family: Makes the arguments.
        vae_scale: Pixels per latent cell (frames, height and width) of a VAE that is not the usual one.

    Raises:
        UnsupportedModelError: The family cannot make arguments, or the model does not run on them.
    """
    temporal, spatial = vae_scale or family.vae_scale
    patch = family.patch(config_of(model))
    frames = 1 if family.default_frames == 1 else (_LATENT_FRAMES * patch[0] - 1) * temporal + 1
    sizes = [(rows * patch[1] * spatial, columns * patch[2] * spatial, _TEXT_TOKENS) for rows, columns in _GRIDS]
    sizes.append((family.default_px, family.default_px, family.text_tokens))
    reason = ""
    for height, width, text_tokens in sizes:
        inputs = family.sample_inputs(
            model,
            height_px=height,
            width_px=width,
            num_frames=frames,
            batch=2,
            text_tokens=text_tokens,
            vae_scale=(temporal, spatial),
        )
        try:
            with torch.no_grad():
                model(**inputs)
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            reason = " ".join(str(error).split())
            continue
        return inputs
    raise UnsupportedModelError(
        f"{type(model).__name__} does not run on the arguments that family '{family.name}' makes: {reason}"
    )
