"""What can be told of a run from inside its first denoiser call, without reading a tensor."""

import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from torch import nn

from dit_accel.errors import AccelerationWarning
from dit_accel.families.tokens import TokenGrid
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.fingerprint import public_settings


def conditions_of_run(
    owner: Any,
    scheduler: Any,
    denoiser: nn.Module,
    *,
    num_steps: int,
    latent_size: tuple[int, ...] | None,
    grid: TokenGrid | None,
) -> Conditions:
    """What can be told of a run from inside its first denoiser call. Reads no tensor values.

    Args:
        owner: The pipeline, or a stand-in with a ``scheduler`` for a bare denoiser.
        scheduler: The one that drives the run.
        denoiser: The module that is called.
        num_steps: Denoiser evaluations.
        latent_size: See :class:`Conditions`.
        grid: Of the call; ``None`` where it could not be told.
    """
    config = getattr(scheduler, "config", None)
    return Conditions(
        num_steps=num_steps,
        scheduler=type(scheduler).__name__,
        scheduler_config=None if config is None else {k: _plain(v) for k, v in public_settings(config).items()},
        latent_size=latent_size,
        token_grid=None if grid is None else grid.size,
        text_span=None if grid is None else grid.text,
        pipeline=type(owner).__name__ if hasattr(owner, "components") else None,
        adapters=adapters_of(denoiser),
        **_guidance_of(owner),
    )


def adapters_of(denoiser: nn.Module) -> tuple[str, ...]:
    """LoRA adapters in force, active or fused, each as ``"name@scale"``, sorted."""
    found = set()
    for module in denoiser.modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict) and hasattr(module, "merged_adapters"):  # a LoRA layer of peft
            active = () if module.disable_adapters else module.active_adapters
            names = {*active, *module.merged_adapters}  # type: ignore[misc]
            found |= {f"{name}@{scaling[name]:g}" for name in names if name in scaling}
    return tuple(sorted(found))


def _plain(value: Any) -> Any:
    """The same as JSON can keep it: infinity and what JSON does not know in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _guidance_of(owner: Any) -> dict[str, float | None]:
    """The scales that the running call of a pipeline was given, by the names of :class:`Conditions`.

    Most pipelines keep theirs as ``_guidance_scale``; those without (PixArt's, DiT's), and all that have a
    ``true_cfg_scale``, have it as an argument only, so it is looked up in the frame of the call, once a run.
    """
    given = _call_of(owner)
    scales: dict[str, float | None] = {}
    for name in ("guidance_scale", "true_cfg_scale", "guidance_scale_2"):
        kept = getattr(owner, f"_{name}", None)
        scale = kept if isinstance(kept, int | float) else given.get(name)
        scales[name] = float(scale) if isinstance(scale, int | float) else None
    if given.get("do_true_cfg") is False:
        scales["true_cfg_scale"] = 1.0
    return scales


def _call_of(owner: Any) -> Mapping[str, Any]:
    """Arguments and variables of the running call of a pipeline; empty: there is none."""
    for frame in frames():
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is owner:
            return frame.f_locals
    return {}


def running(subjects: Iterable[Any]) -> Any:
    """Which of these objects is in the middle of a ``__call__`` or ``forward``; ``None``: none of them."""
    for frame in frames():
        subject = frame.f_locals.get("self")
        if frame.f_code.co_name in ("__call__", "forward") and any(subject is item for item in subjects):
            return subject
    return None


def frames() -> Iterator[FrameType]:
    """The calls that led here, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def warn_user(message: str) -> None:
    """Warn at the line of the user's own code that led here, not at one of ours, of diffusers' or of torch's."""
    level = 1  # this function, where frames() starts too
    for frame in frames():
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            break
        level += 1
    warnings.warn(message, AccelerationWarning, stacklevel=level)


_LIBRARIES = frozenset(("dit_accel", "diffusers", "torch", "accelerate", "contextlib"))
