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

from dit_accel.calibration.quant_record import LayerRecord
from dit_accel.calibration.quant_round import round_by_columns
from dit_accel.kernels.hadamard import block_for, rotate_blocks
from dit_accel.kernels.int8_truth import SMALLEST_PEAK, largest, quantise_rows, quantise_rows_shifted, to_grid
from dit_accel.passes.quantize.config import WEIGHT
from dit_accel.passes.quantize.layer import quantise_floats
from dit_accel.passes.quantize.replaced import turned
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.weights import QuantWeight, quantise_weight

ALPHAS = (0.1, 0.3, 0.5, 0.7)
SMALLEST_BLOCK = 16  # a rotation of fewer channels spreads nothing
# Squared error that smoothing, and that rotation, must leave at most of what there is without.
WORTH_SMOOTHING, WORTH_ROTATING = 0.9, 0.75
DAMPINGS = (0.02, 0.3, 3.0)  # the more, the nearer to rounding to the nearest: for layers that were shown little
SMALLEST_CHANNEL = 1e-5  # ViDiT-Q's, of a channel that is always 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFit:
    """A layer in few bits.

    Attributes:
        scheme: With its rotation.
        alpha: Of the smoothing; ``None``: none.
        weight: Rounded.
        inverse_smooth: fp32 [K].
        act_scale: fp32 [bins], of fixed scales.
        bias: fp32 [N]: the bias, and what the output would be off on average.
        errors: Squared error of the output over the square of the output, on the recorded rows: ``nearest`` of
            rounding to the nearest with nothing done before, ``balanced`` with smoothing and rotation, ``fitted`` with
            all of it.
    """

    scheme: QuantScheme
    alpha: float | None
    weight: QuantWeight
    inverse_smooth: Tensor | None
    act_scale: Tensor | None
    bias: Tensor | None
    errors: dict[str, float]

    def needed(self, layer: str, matrix: Tensor) -> dict[str, Tensor]:
        """:meth:`stored`, without a weight that is the nearest one anyway: applying the plan rounds it again.

        Args:
            layer: Its name.
            matrix: Its weight in full, [N, K].
        """
        stored = self.stored(layer)
        nearest = quantise_weight(turned(matrix.detach().float().cpu(), self.scheme, self.inverse_smooth), self.scheme)
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
            "act_scale": self.act_scale,
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
    correct_bias: bool = True,
) -> LayerFit:
    """Smooth, rotate and round one layer.

    Args:
        layer: In full.
        record: What it was given.
        scheme: The bits; a rotation in it is taken as said, and is else searched.
        alphas: Of the smoothing; empty: none.
        rotate: Whether a rotation may be chosen.
        by_columns: Round 4-bit weights in groups by :func:`~dit_accel.calibration.quant_round.round_by_columns`.
        correct_bias: Take the mean error out by the bias.

    Raises:
        ConfigError: The weight cannot be rounded.
    """
    weight = layer.weight.detach().float().cpu()
    rows = record.rows
    wanted = rows @ weight.mT
    tried: dict[tuple[float | None, bool], float] = {}
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
    rounded = quantise_weight(turned(weight, chosen, smooth), chosen)
    best = tried[alpha, turn]
    errors = {"nearest": tried[None, turns[0]], "balanced": best, "fitted": best}
    if by_columns and scheme.w_bits == 4 and scheme.group:
        matrix, moments = turned(weight, chosen, smooth), moved_moments(record, chosen, smooth)
        for damping in DAMPINGS:
            better = round_by_columns(matrix, chosen, moments, damping=damping)
            error = _error(rows, wanted, better, chosen, smooth, record)
            if error < errors["fitted"]:
                rounded, errors["fitted"] = better, error
    bias = None
    if correct_bias:
        bias, errors["fitted"] = _bias(layer, rows, wanted, rounded, chosen, smooth, record)
    return LayerFit(
        scheme=chosen,
        alpha=alpha,
        weight=rounded,
        inverse_smooth=smooth,
        act_scale=fixed_scales(record, chosen, smooth),
        bias=bias,
        errors=errors,
    )


def smoothing(weight: Tensor, peak: Tensor, alpha: float | None) -> Tensor | None:
    """fp32 [K], by what input channels are multiplied; their geometric mean is 1. ``None`` without an alpha."""
    if alpha is None:
        return None
    given, own = peak.clamp_min(SMALLEST_CHANNEL), weight.abs().amax(0).clamp_min(SMALLEST_CHANNEL)
    mask = given.pow(alpha) / own.pow(1 - alpha)
    return (mask.log().mean() - mask.log()).exp()


def moved_moments(record: LayerRecord, scheme: QuantScheme, smooth: Tensor | None) -> Tensor:
    """[K, K]: the moments of smoothed and rotated inputs."""
    moments = record.moments
    if smooth is not None:
        moments = moments * smooth[:, None] * smooth
    if not scheme.rotate:
        return moments
    block = block_for(moments.shape[0])
    return rotate_blocks(rotate_blocks(moments, block).mT.contiguous(), block)


def fixed_scales(record: LayerRecord, scheme: QuantScheme, smooth: Tensor | None) -> Tensor | None:
    """fp32 [1] or [bins] of a scheme with fixed scales: by the largest value that was seen; else ``None``.

    Of rotated channels only the recorded rows are known.
    """
    if not scheme.is_static:
        return None
    peaks = record.peaks if smooth is None else record.peaks * smooth
    turned_peak = _prepared(record.rows, scheme, smooth).abs().amax().expand(record.bins)
    found = turned_peak if scheme.rotate else peaks.amax(1)
    whole = found.amax().clamp_min(SMALLEST_PEAK)
    # A part of a run that was not seen has the largest of the others.
    found = torch.where(found > 0, found, whole) / largest(scheme.a_bits)
    return found if scheme.granularity == "bins" else found.amax()[None]


def as_rounded(rows: Tensor, scheme: QuantScheme, smooth: Tensor | None, record: LayerRecord) -> Tensor:
    """fp32 [R, K]: rows as the layer sees them, smoothed, rotated, and off by their own rounding."""
    rows, bits = _prepared(rows, scheme, smooth), scheme.a_bits
    if bits == 16:
        return rows
    if scheme.floats:
        values, scale = quantise_floats(rows)
        return values.float() * scale
    if scheme.is_static:
        scales = fixed_scales(record, scheme, smooth)
        assert scales is not None
        return to_grid(rows, 1 / scales.amax(), largest(bits)) * scales.amax()
    shape = rows.shape
    rows = rows.reshape(1, -1) if scheme.granularity == "tensor" else rows
    if scheme.a_symmetric:
        values, scale = quantise_rows(rows, bits=bits)
        return (values * scale).view(shape)
    values, scale, zero = quantise_rows_shifted(rows, bits=bits)
    return ((values - zero) * scale).view(shape)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b.cpu())


def _prepared(rows: Tensor, scheme: QuantScheme, smooth: Tensor | None) -> Tensor:
    rows = rows if smooth is None else rows * smooth
    return rotate_blocks(rows, block_for(rows.shape[1])) if scheme.rotate else rows


def _error(
    rows: Tensor,
    wanted: Tensor,
    weight: QuantWeight,
    scheme: QuantScheme,
    smooth: Tensor | None,
    record: LayerRecord,
) -> float:
    off = as_rounded(rows, scheme, smooth, record) @ weight.dequantised().mT - wanted
    return float(off.square().sum() / wanted.square().sum().clamp_min(1e-30))


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


def _bias(
    layer: nn.Linear,
    rows: Tensor,
    wanted: Tensor,
    weight: QuantWeight,
    scheme: QuantScheme,
    smooth: Tensor | None,
    record: LayerRecord,
) -> tuple[Tensor, float]:
    """The bias with the mean error in it, and the error that is left.

    CacheQuant's correction of a layer's output (arXiv 2503.01323, section 3.3) with the scale left at 1, shrunk by
    what of the mean may be chance.
    """
    off = wanted - as_rounded(rows, scheme, smooth, record) @ weight.dequantised().mT
    mean = off.mean(0)
    chance = off.var(0) / len(off)
    more = mean * mean.square() / (mean.square() + chance).clamp_min(1e-30)
    bias = torch.zeros_like(more) if layer.bias is None else layer.bias.detach().float().cpu()
    left = float((off - more).square().sum() / wanted.square().sum().clamp_min(1e-30))
    return bias + more, left
