"""What becomes of a layer's inputs before they are rounded, and what rounding makes of them."""

import torch
from torch import Tensor

from dit_accel.calibration.quant_flat import Affine
from dit_accel.calibration.quant_record import LayerRecord
from dit_accel.kernels.hadamard import block_for, rotate_blocks
from dit_accel.kernels.int8_truth import SMALLEST_PEAK, largest, quantise_rows, quantise_rows_shifted, to_grid
from dit_accel.passes.quantize.affine import transformed
from dit_accel.passes.quantize.layer import quantise_floats
from dit_accel.passes.quantize.scheme import QuantScheme

SMALLEST_CHANNEL = 1e-5  # ViDiT-Q's, of a channel that is always 0


def smoothing(weight: Tensor, peak: Tensor, alpha: float | None) -> Tensor | None:
    """fp32 [K], by what input channels are multiplied; their geometric mean is 1. ``None`` without an alpha."""
    if alpha is None:
        return None
    given, own = peak.clamp_min(SMALLEST_CHANNEL), weight.abs().amax(0).clamp_min(SMALLEST_CHANNEL)
    mask = given.pow(alpha) / own.pow(1 - alpha)
    return (mask.log().mean() - mask.log()).exp()


def moved_moments(
    record: LayerRecord, scheme: QuantScheme, smooth: Tensor | None, affine: Affine | None = None
) -> Tensor:
    """[K, K]: the moments of smoothed and rotated or transformed inputs."""
    moments = record.moments
    if smooth is not None:
        moments = moments * smooth[:, None] * smooth
    if affine is not None:
        once = transformed(moments, affine.left, affine.right)
        return transformed(once.mT.contiguous(), affine.left, affine.right)
    if not scheme.rotate:
        return moments
    block = block_for(moments.shape[0])
    return rotate_blocks(rotate_blocks(moments, block).mT.contiguous(), block)


def fixed_scales(
    record: LayerRecord, scheme: QuantScheme, smooth: Tensor | None, affine: Affine | None = None
) -> Tensor | None:
    """fp32 [1] or [bins] of a scheme with fixed scales: by the largest value that was seen; else ``None``.

    Of rotated channels only the recorded rows are known.
    """
    if not scheme.is_static:
        return None
    peaks = record.peaks if smooth is None else record.peaks * smooth
    turned_peak = prepared(record.rows, scheme, smooth, affine).abs().amax().expand(record.bins)
    found = turned_peak if scheme.rotate or affine is not None else peaks.amax(1)
    whole = found.amax().clamp_min(SMALLEST_PEAK)
    # A part of a run that was not seen has the largest of the others.
    found = torch.where(found > 0, found, whole) / largest(scheme.a_bits)
    return found if scheme.granularity == "bins" else found.amax()[None]


def as_rounded(
    rows: Tensor, scheme: QuantScheme, smooth: Tensor | None, record: LayerRecord, affine: Affine | None = None
) -> Tensor:
    """fp32 [R, K]: rows as the layer sees them, smoothed, rotated, and off by their own rounding."""
    rows, bits = prepared(rows, scheme, smooth, affine), scheme.a_bits
    if bits == 16:
        return rows
    if scheme.floats:
        values, scale = quantise_floats(rows)
        return values.float() * scale
    if scheme.is_static:
        scales = fixed_scales(record, scheme, smooth, affine)
        assert scales is not None
        return to_grid(rows, 1 / scales.amax(), largest(bits)) * scales.amax()
    shape = rows.shape
    rows = rows.reshape(1, -1) if scheme.granularity == "tensor" else rows
    if scheme.a_symmetric:
        values, scale = quantise_rows(rows, bits=bits)
        return (values * scale).view(shape)
    values, scale, zero = quantise_rows_shifted(rows, bits=bits)
    return ((values - zero) * scale).view(shape)


def prepared(rows: Tensor, scheme: QuantScheme, smooth: Tensor | None, affine: Affine | None = None) -> Tensor:
    """fp32 [R, K]: smoothed, transformed and rotated."""
    rows = rows if smooth is None else rows * smooth
    rows = rows if affine is None else transformed(rows, affine.left, affine.right)
    return rotate_blocks(rows, block_for(rows.shape[1])) if scheme.rotate else rows
