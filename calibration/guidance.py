"""Weights for a range of guidance scales: fitted at a few, interpolated between them.

Guidance is linear in its branches, so at one scale the same weights answer for all of them; but another scale is
another way through latent space, with another best answer. Fits at two or three scales make a line through weight
space along which the answers between are nearly as good as ones that were fitted there.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from dit_accel.calibration.fit import fit
from dit_accel.calibration.guard import with_guard
from dit_accel.calibration.recording import Draw, record
from dit_accel.errors import ConfigError
from dit_accel.passes.trajectory.apply import TrajectoryConfig


def own_scale(own: float | None, values: Sequence[float]) -> float:
    """The scale that plans are fitted at, if there is something to interpolate to from there.

    Raises:
        ConfigError: It cannot be told, or is the only one.
    """
    if own is None:
        raise ConfigError(
            "weights for several guidance scales take a fitted plan of a pipeline that has a guidance scale; this one "
            "has none that can be told"
        )
    if set(values) <= {own}:
        raise ConfigError(f"the plan is fitted at guidance {own:g} already; give another scale to interpolate to")
    return own


def over_guidance(
    pipe: Any,
    draw_at: Callable[[float], Draw],
    config: TrajectoryConfig,
    own: float | None,
    values: Sequence[float],
    count: int,
    **how: Any,
) -> TrajectoryConfig:
    """A fitted plan with weights for further guidance scales, and a guard whose limits hold for all of them.

    Costs one plain and two accelerated runs for each further scale.

    Args:
        pipe: The pipeline that the plan was fitted to.
        draw_at: From a guidance scale to what draws with it.
        config: The fitted plan; its weights are those of ``own``.
        own: The scale that it was fitted at; ``None``: it cannot be told.
        values: The further scales.
        count: How many prompts to fit to, from 0 on.
        how: Further options of :func:`.fit.fit`, as the plan was fitted.

    Raises:
        ConfigError: There is no scale to interpolate from, or it is the only one.
    """
    own = own_scale(own, values)
    assert config.computed is not None and config.weights is not None
    computed = [step for step, is_computed in enumerate(config.computed) if is_computed]
    apart = config.unconditional is not None
    fits, guard = {own: config}, list(config.guard)
    for scale in values:
        if scale in fits:
            continue
        draw = draw_at(scale)
        there = record(pipe, draw, 0, count)
        fits[scale] = fit(pipe, draw, there, computed, 0, count, branches=apart, **how).config
        if guard:
            limits = with_guard(pipe, draw, fits[scale], 0, count).guard
            guard = [max(pair) for pair in zip(guard, limits, strict=True)]
    scales = tuple(sorted(fits))
    return replace(
        config,
        guidance=scales,
        guided_weights=torch.stack([_there(fits[scale].weights) for scale in scales]),
        guided_unconditional=torch.stack([_there(fits[scale].unconditional) for scale in scales]) if apart else None,
        guard=tuple(guard),
    )


def _there(table: torch.Tensor | None) -> torch.Tensor:
    assert table is not None
    return table
