"""The denoiser sees a few samples at a time, however many prompts a pipeline call draws.

A fit looks at all prompts together at each evaluation, so that they are drawn in one call; what makes that call large
is what the denoiser needs while it runs, not the latents. So its batch is cut into cohorts, one after another, and put
together again: for the scheduler, the guidance and the fit nothing is different. Samples of a batch do not see each
other in a denoiser that is not trained, so the results are the same but for the rounding of other matrix sizes.

The VAE decodes one sample at a time meanwhile, where it can.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.targets import find_targets
from dit_accel.runtime.ledger import PatchLedger
from dit_accel.runtime.patch import Patch

BY = "cohorts"
SHARED = ("img_ids", "txt_ids", "text_ids", "image_rotary_emb", "rotary_emb", "freqs_cis")  # for all samples alike


@contextmanager
def in_cohorts(pipe: Any, size: int | None) -> Iterator[None]:
    """Cut the batches of a pipeline's denoisers inside the block; to be entered before anything is applied to it.

    Args:
        pipe: The pipeline.
        size: Rows of a batch that a denoiser sees at a time; both guidance branches of a prompt in one batch are two
            rows. ``None``: all.

    Raises:
        UnsupportedModelError: At a call whose results cannot be put together again.
    """
    if size is None:
        yield
        return
    ledger = PatchLedger()
    try:
        for target in find_targets(pipe):
            ledger.set(target.denoiser, "forward", _InParts(target.denoiser, size), by=BY)
        if hasattr(getattr(pipe, "vae", None), "use_slicing"):
            ledger.set(pipe.vae, "use_slicing", True, by=BY)
        yield
    finally:
        ledger.undo()


class _InParts(Patch[torch.nn.Module]):
    """A denoiser's ``forward``, some rows at a time."""

    def __init__(self, denoiser: torch.nn.Module, size: int) -> None:
        super().__init__(denoiser, "forward")
        self.size = size

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        rows = _rows_of(args[0] if args else next(iter(kwargs.values())))
        if rows <= self.size:
            return self.original(*args, **kwargs)
        parts = []
        for start in range(0, rows, self.size):
            part = slice(start, min(start + self.size, rows))
            some = {name: each if name in SHARED else _part(each, rows, part) for name, each in kwargs.items()}
            parts.append(self.original(*(_part(each, rows, part) for each in args), **some))
        return _joined(parts)


def _rows_of(first: Any) -> int:
    return len(first) if isinstance(first, list | tuple | torch.Tensor) else 0


def _part(value: Any, rows: int, part: slice) -> Any:
    """What of an argument belongs to some of the samples: of what has a row for each, those rows."""
    if isinstance(value, torch.Tensor):
        return value[part] if value.dim() and len(value) == rows else value
    if isinstance(value, dict):
        return {name: _part(each, rows, part) for name, each in value.items()}
    if isinstance(value, list | tuple):
        of_samples = isinstance(value, list) and len(value) == rows
        return value[part] if of_samples else type(value)(_part(each, rows, part) for each in value)
    return value


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    if is_dataclass(first) and not isinstance(first, type):
        names = [each.name for each in fields(first)]
        return type(first)(**{name: _joined([getattr(part, name) for part in parts]) for name in names})
    if isinstance(first, tuple):
        return tuple(_joined([part[place] for part in parts]) for place in range(len(first)))
    if isinstance(first, list):
        return [each for part in parts for each in part]
    if first is None:
        return None
    raise UnsupportedModelError(
        f"the denoiser gives a {type(first).__name__}, which cannot be put together from cohorts: leave out --cohort"
    )
