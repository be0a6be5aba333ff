"""Chooses for one layer how its input is smoothed and rotated before it is rounded, and rounds its weight by that.

ViDiT-Q's static-dynamic channel balancing (arXiv 2406.02540, section 4.2): a mask ``max|X|^a / max|W|^(1 - a)``
takes what is constant out of the channels' imbalance (SmoothQuant, arXiv 2211.10438), a Hadamard rotation spreads what
moves with the timestep. Alpha, and whether to rotate at all, are searched by the error of the layer's output on rows
that it was given, rounded as they will be. Departure: both are left out where they gain little, for they cost time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dit_accel.calibration.quant_flat import LEARNED_FRAC, Affine, learn_affine, sides
from dit_accel.calibration.quant_inputs import as_rounded, fixed_scales, moved_moments, smoothing
from dit_accel.calibration.quant_record import LayerRecord
from dit_accel.calibration.quant_round import round_by_columns
from dit_accel.kernels.hadamard import block_for
from dit_accel.passes.quantize.affine import has_factors
from dit_accel.passes.quantize.config import WEIGHT
from dit_accel.passes.quantize.replaced import turned
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.weights import QuantWeight, quantise_weight

ALPHAS = (0.1, 0.3, 0.5, 0.7)
SMALLEST_BLOCK = 16  # a rotation of fewer channels spreads nothing
# Squared error that smoothing, and that rotation, must leave at most of what there is without.
WORTH_SMOOTHING, WORTH_ROTATING = 0.9, 0.75
WORTH_SCALING = 0.98  # that a gain of each output channel must leave, beside a bias
GAINS = (0.5, 2.0)
DAMPINGS = (0.02, 0.3, 3.0)  # the more, the nearer to rounding to the nearest: for layers that were shown little


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFit:
    """A layer in few bits.

    Attributes:
        scheme: With its rotation.
        alpha: Of the smoothing; ``None``: none.
        weight: Rounded.
        inverse_smooth: fp32 [K].
        affine: A learned transform.
        act_scale: fp32 [bins], of fixed scales.
        gain: fp32 [N], by what the output is multiplied; ``None``: 1.
        bias: fp32 [N]: the bias, and what the output would be off on average.
        errors: Squared error of the output over the square of the output, on the recorded rows: ``nearest`` of
            rounding to the nearest with nothing done before, ``balanced`` with smoothing and rotation, ``fitted`` with
            all of it.
    """

    scheme: QuantScheme
    alpha: float | None
    weight: QuantWeight
    inverse_smooth: Tensor | None
    affine: Affine | None
    act_scale: Tensor | None
    gain: Tensor | None
    bias: Tensor | None
    errors: dict[str, float]

    def needed(self, layer: str, matrix: Tensor) -> dict[str, Tensor]:
        """:meth:`stored`, without a weight that is the nearest one anyway: applying the plan rounds it again.

        Args:
            layer: Its name.
            matrix: Its weight in full, [N, K].
        """
        stored = self.stored(layer)
        moved = turned(matrix.detach().float().cpu(), self.scheme, self.inverse_smooth, sides(self.affine))
        nearest = quantise_weight(moved, self.scheme)
        if all(_same(getattr(nearest, what), getattr(self.weight, what)) for what in WEIGHT):
            return {name: each for name, each in stored.items() if name.rpartition(".")[2] not in WEIGHT}
        return stored

    def stored(self, layer: str) -> dict[str, Tensor]:
        """As ``stored`` of a :class:`~dit_accel.passes.quantize.config.QuantizeConfig` takes it."""
        parts = {
            "values": self.weight.values,
            "scale": self.weight.scale,
            "multiplier": self.weight.multiplier,
            "zero": self.weight.zero,
            "inverse_smooth": self.inverse_smooth,
            "left": None if self.affine is None else self.affine.left,
            "right": None if self.affine is None else self.affine.right,
            "act_scale": self.act_scale,
            "gain": self.gain,
            "bias": self.bias,
        }
        return {f"{layer}.{what}": each.cpu().contiguous() for what, each in parts.items() if each is not None}


def fit_layer(
    layer: nn.Linear,
    record: LayerRecord,
    scheme: QuantScheme,
    *,
    alphas: Sequence[float] = ALPHAS,
    rotate: bool = True,
    by_columns: bool = True,
    correct: bool = True,
) -> LayerFit:
    """Smooth, rotate and round one layer.

    Args:
        layer: In full.
        record: What it was given.
        scheme: The bits; a rotation in it is taken as said, and is else searched; with ``flat`` one is learned.
        alphas: Of the smoothing; empty: none.
        rotate: Whether a rotation may be chosen.
        by_columns: Round 4-bit weights in groups by :func:`~dit_accel.calibration.quant_round.round_by_columns`.
        correct: Take what is linear in the output out of its error, by a gain and the bias of each channel.

    Raises:
        ConfigError: The weight cannot be rounded.
    """
    weight = layer.weight.detach().float().cpu()
    rows = record.rows
    wanted = rows @ weight.mT
    tried: dict[tuple[float | None, bool], float] = {}
    learns = scheme.flat and has_factors(weight.shape[1])
    scheme = replace(scheme, flat=False)
    turns = [scheme.rotate] if scheme.rotate or not rotate else [False, True]
    turns = [each for each in turns if not each or block_for(weight.shape[1]) >= SMALLEST_BLOCK] or [False]
    for turn in turns:
        for alpha in (None, *alphas):
            each = replace(scheme, rotate=turn)
            smooth = smoothing(weight, record.peak, alpha)
            rounded = quantise_weight(turned(weight, each, smooth), each)
            tried[alpha, turn] = _error(rows, wanted, rounded, each, smooth, record)
    alpha, turn = _choose(tried, turns)
    chosen = replace(scheme, rotate=turn)
    smooth = smoothing(weight, record.peak, alpha)
    affine = None
    if learns:
        chosen, smooth, affine = _learned(weight, record, chosen, smooth, tried)
    rounded = quantise_weight(turned(weight, chosen, smooth, sides(affine)), chosen)
    best = _error(rows, wanted, rounded, chosen, smooth, record, affine)
    errors = {"nearest": tried[None, turns[0]], "balanced": best, "fitted": best}
    if by_columns and scheme.w_bits == 4 and scheme.group:
        matrix, moments = turned(weight, chosen, smooth, sides(affine)), moved_moments(record, chosen, smooth, affine)
        for damping in DAMPINGS:
            better = round_by_columns(matrix, chosen, moments, damping=damping)
            error = _error(rows, wanted, better, chosen, smooth, record, affine)
            if error < errors["fitted"]:
                rounded, errors["fitted"] = better, error
    gain = bias = None
    if correct:
        given = as_rounded(rows, chosen, smooth, record, affine) @ rounded.dequantised().mT
        gain, more, errors["fitted"] = _correction(given, wanted)
        bias = more if layer.bias is None else layer.bias.detach().float().cpu() + more
    return LayerFit(
        scheme=chosen,
        alpha=alpha,
        weight=rounded,
        inverse_smooth=smooth,
        affine=affine,
        act_scale=fixed_scales(record, chosen, smooth, affine),
        gain=gain,
        bias=bias,
        errors=errors,
    )


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b.cpu())


def _error(
    rows: Tensor,
    wanted: Tensor,
    weight: QuantWeight,
    scheme: QuantScheme,
    smooth: Tensor | None,
    record: LayerRecord,
    affine: Affine | None = None,
) -> float:
    off = as_rounded(rows, scheme, smooth, record, affine) @ weight.dequantised().mT - wanted
    return float(off.square().sum() / wanted.square().sum().clamp_min(1e-30))


def _learned(
    weight: Tensor,
    record: LayerRecord,
    searched: QuantScheme,
    smooth: Tensor | None,
    tried: dict[tuple[float | None, bool], float],
) -> tuple[QuantScheme, Tensor | None, Affine | None]:
    """Scheme, smoothing and a learned transform; without one where it does not beat what was searched.

    It is learned on smoothed rows, FlatQuant's beginning, and judged on rows that it was not taught.
    """
    unturned = min((key for key in tried if not key[1]), key=tried.__getitem__, default=(None, False))
    before = smoothing(weight, record.peak, unturned[0])
    scheme = replace(searched, flat=True, rotate=False)
    rows = record.rows if before is None else record.rows * before
    affine = learn_affine(turned(weight, scheme, before), rows, scheme)
    held = record.rows[round(len(record.rows) * LEARNED_FRAC) :]
    held = held if len(held) else record.rows
    wanted = held @ weight.mT
    errors = []
    for each, kept, found in ((searched, smooth, None), (scheme, before, affine)):
        rounded = quantise_weight(turned(weight, each, kept, sides(found)), each)
        errors.append(_error(held, wanted, rounded, each, kept, record, found))
    return (scheme, before, affine) if errors[1] < errors[0] else (searched, smooth, None)


def _choose(tried: dict[tuple[float | None, bool], float], turns: Sequence[bool]) -> tuple[float | None, bool]:
    """The least error, where what takes time is worth it."""
    best: dict[bool, tuple[float | None, bool]] = {}
    for turn in turns:
        smoothed = min((key for key in tried if key[1] == turn), key=tried.__getitem__)
        worth = tried[smoothed] <= WORTH_SMOOTHING * tried[None, turn]
        best[turn] = smoothed if worth else (None, turn)
    if len(best) == 1:
        return best[turns[0]]
    return best[True] if tried[best[True]] <= WORTH_ROTATING * tried[best[False]] else best[False]


def _correction(given: Tensor, wanted: Tensor) -> tuple[Tensor | None, Tensor, float]:
    """Gain [N] (``None``: not worth it), what is added to the bias [N], and the error that is left.

    CacheQuant's correction of a layer's output (arXiv 2503.01323, section 3.3), ``a = Cov(X, Y) / Var(X)`` and
    ``b = mean(Y) - a mean(X)``. Departure: both are shrunk, toward 1 and 0, by what of them may be chance.

    Args:
        given: [R, N], of the rounded layer, without a bias.
        wanted: [R, N].
    """
    whole = wanted.square().sum().clamp_min(1e-30)
    more, left = _offset(wanted - given)
    gain = _gain(given, wanted)
    scaled, best = _offset(wanted - given * gain)
    if best <= WORTH_SCALING * left:
        return gain, scaled, float(best / whole)
    return None, more, float(left / whole)


def _offset(off: Tensor) -> tuple[Tensor, Tensor]:
    """[N]: the mean error, shrunk; and the squared error without it."""
    mean = off.mean(0)
    chance = off.var(0) / len(off)
    more = mean * mean.square() / (mean.square() + chance).clamp_min(1e-30)
    return more, (off - more).square().sum()


def _gain(given: Tensor, wanted: Tensor) -> Tensor:
    """[N]: the slope of what is wanted over what is given, shrunk; 1 of a channel that never changes."""
    x, y = given - given.mean(0), wanted - wanted.mean(0)
    power = x.square().sum(0)
    moves = power > 1e-10 * given.square().sum(0) + 1e-30
    power = torch.where(moves, power, torch.ones_like(power))
    more = (x * y).sum(0) / power - 1
    chance = (y - x * (1 + more)).square().sum(0) / (max(1, len(x) - 2) * power)
    more = more * more.square() / (more.square() + chance).clamp_min(1e-30)
    return torch.where(moves, 1 + more, torch.ones_like(more)).clamp(*GAINS)
