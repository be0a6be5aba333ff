"""Rounds a weight column by column, each error made good by the columns that are still to come.

GPTQ (Frantar et al., arXiv 2210.17323): minimises the error of the layer's output, tr(D H D'), with D the error of the
weight and H the second moments of the inputs, instead of that of the weight. Departures: steps of groups are whole
multiples of their channel's (:mod:`dit_accel.kernels.int4_packing`); they and the zeros are found when their group is
reached, by the search of :func:`~dit_accel.passes.quantize.weights.quantise_weight` with the channels' mean squares as
importance.
"""

import torch
from torch import Tensor

from dit_accel.errors import ConfigError
from dit_accel.kernels.int4_packing import LEVELS, pack_nibbles
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.weights import QuantWeight, grid_of_group, quantise_weight

DAMPING = 0.05  # of the mean of H's diagonal, added to it; GPTQ has 0.01, and more text to go by


def round_by_columns(weight: Tensor, scheme: QuantScheme, moments: Tensor, *, damping: float = DAMPING) -> QuantWeight:
    """A 4-bit weight with groups whose output error is least, greedily.

    Args:
        weight: [N, K], smoothed and rotated if the layer is.
        scheme: With groups.
        moments: [K, K], of inputs that are smoothed and rotated alike.
        damping: See :data:`DAMPING`.

    Raises:
        ConfigError: The scheme has no groups.
    """
    if scheme.w_bits != 4 or not scheme.group:
        raise ConfigError(f"column by column are rounded 4-bit weights in groups, not '{scheme}'")
    weight = weight.detach().double()
    size, group = weight.shape[1], scheme.group
    first = quantise_weight(weight, scheme, moments.diagonal())
    upper = _upper(moments.to(weight.device).double(), damping)
    rest = weight / first.scale.double()[:, None]  # in steps of the channel
    values = torch.zeros(weight.shape, dtype=torch.uint8, device=weight.device)
    steps, zeros = [], []
    for start in range(0, size, group):
        stop = min(start + group, size)
        wide, zero = _grid(rest[:, start:stop], scheme, moments.diagonal()[start:stop])
        steps.append(wide)
        zeros.append(zero)
        # What was clipped on purpose must not leave int8 when errors have made it larger.
        reach = torch.div(127, wide, rounding_mode="floor")
        least, most = (zero - reach).clamp_min(0), (zero + reach).clamp_max(LEVELS - 1)
        block, errors = rest[:, start:stop].clone(), torch.zeros_like(rest[:, start:stop])
        for column in range(stop - start):
            here = start + column
            point = torch.round(block[:, column] / wide) + zero
            point = torch.minimum(torch.maximum(point, least), most)
            values[:, here] = point.to(torch.uint8)
            error = (block[:, column] - (point - zero) * wide) / upper[here, here]
            block[:, column:] -= error[:, None] * upper[here, here:stop]
            errors[:, column] = error
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    return QuantWeight(
        values=pack_nibbles(values),
        scale=first.scale,
        multiplier=torch.stack(steps, 1).to(torch.uint8),
        zero=torch.stack(zeros, 1).to(torch.uint8),
        in_features=size,
        group=group,
    )


def output_error(weight: Tensor, rounded: Tensor, moments: Tensor) -> float:
    """Mean square of the output's error over that of the output, from the moments of the inputs alone."""
    weight, rounded, moments = (each.double() for each in (weight, rounded, moments))
    off = rounded - weight
    wrong, right = (float(((each @ moments) * each).sum()) for each in (off, weight))
    return wrong / max(right, 1e-30)


def _grid(columns: Tensor, scheme: QuantScheme, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Whole step and zero of one group, fp64 [N] each, for columns in steps of their channels."""
    wide, zero = grid_of_group(columns.float(), scheme, importance)
    return wide.double(), zero.double()


def _upper(moments: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of H: row i says how an error of column i goes into later ones."""
    diagonal = moments.diagonal()
    # A channel that is always 0 has no say.
    extra = damping * diagonal.mean().clamp_min(1e-12) + (diagonal == 0) * 1.0
    for _ in range(4):
        try:
            lower = torch.linalg.cholesky(moments + torch.diag(extra))
            upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
            return upper
        except torch.linalg.LinAlgError:
            extra = extra * 10
    raise ConfigError("the second moments of its inputs cannot be inverted: too few rows were recorded")
