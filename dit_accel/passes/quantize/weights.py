"""Weights as integers or 8-bit floats: how they are found, kept, and multiplied out again."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit_accel.errors import ConfigError
from dit_accel.kernels.int4_packing import LEVELS, pack_nibbles, unpack_int8
from dit_accel.kernels.int8_truth import MAX_IN_FEATURES, SMALLEST_PEAK, largest, to_grid
from dit_accel.passes.quantize.scheme import QuantScheme

FP8_LARGEST = 448.0  # of e4m3
# Of a channel in groups: its peak is not the last integer, because a group's whole steps may overshoot it (QServe).
PROTECTED = 119
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of a group's range: clipping a little costs less than wide steps


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantWeight:
    """A weight matrix [N, K] in few bits; of a convolution K is channels times window.

    Attributes:
        values: int8 or float8 [N, K]; of 4 bits uint8 [N, ceil(K / 2)], see :mod:`dit_accel.kernels.int4_packing`.
        scale: fp32 [N], one for each output channel.
        multiplier: uint8 [N, G], of 4 bits only: each group's step in steps of its channel.
        zero: The point that stands for 0: uint8 [N, G] of 4 bits, int32 [N] of 8 bits that are not symmetric.
        in_features: K.
        group: Input channels in a group; K where there are no groups.
    """

    values: Tensor
    scale: Tensor
    multiplier: Tensor | None = None
    zero: Tensor | None = None
    in_features: int
    group: int

    @property
    def is_packed(self) -> bool:
        """Whether two weights share a byte."""
        return self.multiplier is not None

    @property
    def nbytes(self) -> int:
        """Bytes that all of it takes."""
        parts = (self.values, self.scale, self.multiplier, self.zero)
        return sum(part.nbytes for part in parts if part is not None)

    def integers(self) -> Tensor:
        """int8 [N, K], in units of the channels' scales; of 8 bits that are not symmetric ``zero`` stands for 0."""
        if self.multiplier is None or self.zero is None:
            return self.values
        return unpack_int8(self.values, self.multiplier, self.zero, self.group, self.in_features)

    def scaled(self, gain: Tensor | None) -> "QuantWeight":
        """With every output channel times its gain [N]; ``None``: as it is."""
        return self if gain is None else replace(self, scale=self.scale * gain.to(self.scale))

    def dequantised(self) -> Tensor:
        """fp32 [N, K]."""
        whole = self.integers().float()
        if self.zero is not None and not self.is_packed:
            whole = whole - self.zero[:, None]
        return whole * self.scale[:, None]


def quantise_weight(weight: Tensor, scheme: QuantScheme, importance: Tensor | None = None) -> QuantWeight:
    """Round a weight to a scheme's grid, each output channel by itself.

    Args:
        weight: [N, K], any floating dtype; what smoothing and rotation make of it, if there are any.
        scheme: The grid.
        importance: fp32 [K], how much an error in an input channel counts, when the range of a group is chosen: the
            mean square of that channel's activations. ``None``: all the same.

    Raises:
        ConfigError: It is not finite, or has more input channels than int32 sums can hold.
    """
    weight = weight.detach().float()
    if not torch.isfinite(weight).all():
        count = int((~torch.isfinite(weight)).sum())
        raise ConfigError(f"{count} of its {weight.numel()} weights are not finite numbers; the file may be damaged")
    size = weight.shape[1]
    if size > MAX_IN_FEATURES:
        raise ConfigError(f"it has {size} input channels; sums of more than {MAX_IN_FEATURES} products may overflow")
    peak = weight.abs().amax(1).clamp_min(SMALLEST_PEAK)
    if scheme.floats:
        scale = peak / FP8_LARGEST
        values = (weight / scale[:, None]).to(torch.float8_e4m3fn)
        return QuantWeight(values=values, scale=scale, in_features=size, group=size)
    if scheme.w_bits == 4:
        return _in_groups(weight, peak, scheme, importance)
    if scheme.w_symmetric:
        top = largest(8)
        values = to_grid(weight, top / peak[:, None], top)
        return QuantWeight(values=values, scale=peak / top, in_features=size, group=size)
    low, high = weight.amin(1).clamp_max(0), weight.amax(1).clamp_min(0)
    scale = ((high - low) / 255).clamp_min(SMALLEST_PEAK)
    zero = torch.round(-low / scale) - 128
    values = (torch.round(weight / scale[:, None]) + zero[:, None]).clamp(-128, 127).to(torch.int8)
    return QuantWeight(values=values, scale=scale, zero=zero.to(torch.int32), in_features=size, group=size)


def _in_groups(weight: Tensor, peak: Tensor, scheme: QuantScheme, importance: Tensor | None) -> QuantWeight:
    """4 bits: of every group the whole step, the zero and the clipping with the least squared error."""
    outputs, size = weight.shape
    group = scheme.group or size
    count = -(-size // group)
    scale = peak / (PROTECTED if scheme.group else largest(4))  # without groups the channel's step is the only one
    more = count * group - size
    steps = torch.nn.functional.pad(weight / scale[:, None], (0, more)).view(outputs, count, group)
    counts = torch.ones(size) if importance is None else importance.float().cpu()
    counts = torch.nn.functional.pad(counts, (0, more)).view(count, group).to(weight.device)
    if scheme.group:
        wide, zero = _best_grid(steps, scheme, counts)
    else:
        wide = torch.ones(outputs, 1, device=weight.device)
        zero = torch.full_like(wide, LEVELS // 2)
    values = _points(steps, wide, zero).view(outputs, count * group)[:, :size]
    return QuantWeight(
        values=pack_nibbles(values),
        scale=scale,
        multiplier=wide.to(torch.uint8),
        zero=zero.to(torch.uint8),
        in_features=size,
        group=group,
    )


def grid_of_group(steps: Tensor, scheme: QuantScheme, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Whole step and zero fp32 [N] of one group of weights [N, group], given in steps of their channels."""
    wide, zero = _best_grid(steps[:, None], scheme, importance.to(steps)[None])
    return wide[:, 0], zero[:, 0]


def _best_grid(steps: Tensor, scheme: QuantScheme, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Step and zero [N, G] for groups [N, G, group], errors weighted by ``counts`` [G, group]."""
    low, high = steps.amin(-1).clamp_max(0), steps.amax(-1).clamp_min(0)
    best_error = torch.full_like(low, float("inf"))
    best = [torch.ones_like(low), torch.zeros_like(low)]
    for wide in _steps(low, high, scheme):
        zero = _zero(low, wide, scheme)
        error = ((_points(steps, wide, zero) - zero[..., None]) * wide[..., None] - steps).square_().mul_(counts)
        error = error.sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = [torch.where(better, new, old) for new, old in zip((wide, zero), best, strict=True)]
    return best[0], best[1]


def _steps(low: Tensor, high: Tensor, scheme: QuantScheme) -> list[Tensor]:
    """Candidates for the steps of all groups: the range in 15 steps, shrunk, rounded up and down."""
    reach = 2 * torch.maximum(-low, high) * 15 / 14 if scheme.w_symmetric else high - low
    found = []
    for shrink in SHRINKS:
        wanted = reach * shrink / (LEVELS - 1)
        found += [wanted.floor().clamp_(1, 17), wanted.ceil().clamp_(1, 17)]
    return found


def _zero(low: Tensor, wide: Tensor, scheme: QuantScheme) -> Tensor:
    if scheme.w_symmetric:
        return torch.full_like(wide, LEVELS // 2)
    return torch.round(-low / wide).clamp_(0, LEVELS - 1)


def _points(steps: Tensor, wide: Tensor, zero: Tensor) -> Tensor:
    return (torch.round(steps / wide[..., None]) + zero[..., None]).clamp_(0, LEVELS - 1)
