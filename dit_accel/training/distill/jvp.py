"""Derivative of a network along a direction: exact by forward-mode differentiation, or by central differences.

Exact is not always what is wanted: a network that is told 1000 t has a sinusoidal embedding of it that turns round
within a thousandth of the times, and nothing in its training made it smooth there. Its exact derivative in time is
mostly that roughness, so the time's part can be a difference over a step that is wide enough, and the latents' part
exact (semi-continuous: rCM's ``fd_type`` 1, with a wider step).

Forward mode goes through PyTorch's math attention only: the fused kernels (flash, memory-efficient and the CPU's own)
have no forward derivative. It sees neither through checkpointing nor through compiled or distributed wrappers, so the
plain module is called, in float32, without autocast.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dit_accel.errors import UnsupportedModelError
from dit_accel.training.distill.backbone import per_sample

logger = logging.getLogger("dit_accel")

Field = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Mode = Literal["auto", "forward", "difference"]
STEP = 2e-3  # of differences in the latents: small beside them, and well above float32's rounding
TIME_STEP = 0.05  # in flow time or in TrigFlow's angles: see "Derivatives" in docs/distillation.md


@torch.no_grad()
def along(
    field: Field,
    x: torch.Tensor,
    t: torch.Tensor,
    dx: torch.Tensor,
    dt: torch.Tensor,
    *,
    mode: Mode = "auto",
    step: float = STEP,
    time_step: float = 0.0,
    last_time: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Value of ``field(x, t)`` and its derivative along ``(dx, dt)``, neither with a gradient.

    Args:
        field: Of latents [B, ...] and times [B]; every sample on its own.
        x: Latents, float32.
        t: Times, float32.
        dx: Direction in the latents.
        dt: Direction in time, [B].
        mode: ``"forward"`` differentiates exactly; ``"difference"`` takes central differences; ``"auto"`` tries the
            first and falls back to the second where an operation has no forward derivative.
        step: Of the differences, as a share of ``(dx, dt)``.
        time_step: Half the width of a difference in time, which then takes the place of the time's part in any mode; 0
            treats time as the latents. Where it would leave the times that there are, it is one-sided.
        last_time: The times are those from 0 to this one.

    Raises:
        UnsupportedModelError: ``"forward"``, and an operation has no forward derivative.
    """
    if time_step:
        value, change = along(field, x, t, dx, torch.zeros_like(dt), mode=mode, step=step)
        return value, change + per_sample(dt, x) * _slope(field, x, t, time_step, last_time)
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(x.device.type, enabled=False):
        if mode != "difference":
            try:
                found: Any = torch.func.jvp(field, (x, t), (dx, dt))
                return found[0].detach(), found[1].detach()
            except torch.OutOfMemoryError:  # a RuntimeError, and no word on derivatives
                raise
            except (NotImplementedError, RuntimeError) as error:
                if mode == "forward":
                    raise UnsupportedModelError(
                        f"the network has no forward derivative ({str(error).splitlines()[0]}): use mode='difference'"
                    ) from error
                logger.warning("no forward derivative (%s); taking differences", str(error).splitlines()[0])
        value = field(x, t)
        ahead = field(x + step * dx, t + step * dt)
        behind = field(x - step * dx, t - step * dt)
        return value, (ahead - behind) / (2 * step)


def _slope(field: Field, x: torch.Tensor, t: torch.Tensor, time_step: float, last_time: float) -> torch.Tensor:
    """Change of the field in time alone, a unit of time."""
    early, late = (t - time_step).clamp(min=0), (t + time_step).clamp(max=last_time)
    with torch.autocast(x.device.type, enabled=False):
        return (field(x, late) - field(x, early)) / per_sample(late - early, x)


@contextlib.contextmanager
def without_checkpointing(network: nn.Module) -> Iterator[None]:
    """Switch gradient checkpointing off for the time being: it recomputes what forward mode cannot follow."""
    switched = [module for module in network.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in switched:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in switched:
            module.gradient_checkpointing = True  # type: ignore[assignment]
