"""Whether a site can be kept in a live run: until then, what discovery read from source is a guess."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Layout

CALLED_AGAIN = "it is called more than once in one call of the denoiser, and one output is kept"


# Under these names an attention processor holds what it hands its maps to: prompt-to-prompt, LEdits++ and their kin.
_RECORDERS = ("attnstore", "attention_store", "controller")


def processors_of(denoiser: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    """Every module that has an attention processor, with its path."""
    return tuple((path, module) for path, module in denoiser.named_modules() if hasattr(module, "processor"))


def watched_sites(attentions: Iterable[tuple[str, nn.Module]], layout: Layout) -> dict[str, str]:
    """The sites that hold an attention whose processor records its maps, which the pipeline reads at every step.

    Args:
        attentions: See :func:`processors_of`; which processor each has may have changed since.
        layout: Of the same model.
    """
    watched = {
        f"{path}.": type(module.processor).__name__
        for path, module in attentions
        if any(getattr(module.processor, name, None) is not None for name in _RECORDERS)
    }
    found = {}
    for site in layout.sites if watched else ():
        inside = [name for path, name in watched.items() if path.startswith(f"{site.path}." if site.path else "")]
        if inside:
            found[site.info.id] = f"the pipeline reads the attention maps that {inside[0]} records there at every step"
    return found


def misfit(names: Sequence[str], taken: Sequence[Any], returned: Any) -> str | None:
    """Why a block cannot be a site that keeps what it adds to its residual streams; ``None``: it can.

    Args:
        names: Its streams, in the order in which it is said to return them.
        taken: What the call was given under these names.
        returned: What it returned.
    """
    outputs = returned if isinstance(returned, (tuple, list)) else (returned,)
    if len(outputs) != len(names):
        return f"it returns {len(outputs)} values and has {len(names)} residual streams ({', '.join(names)})"
    for name, before, after in zip(names, taken, outputs, strict=True):
        if not isinstance(before, torch.Tensor):
            return f"its residual stream '{name}' is {_kind(before)}, not a tensor"
        # A last block may return None for a stream that nobody reads after it.
        if after is not None and not isinstance(after, torch.Tensor):
            return f"it returns {_kind(after)} for its residual stream '{name}', not a tensor"
        if after is not None and after.shape != before.shape:
            shapes = f"goes in as {tuple(before.shape)} and comes out as {tuple(after.shape)}"
            return f"its residual stream '{name}' {shapes}"
    return None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
