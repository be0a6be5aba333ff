"""``QuantLinear``: a linear layer whose weight, and as a rule whose input, is of few bits."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dit_accel.kernels.hadamard import block_for, rotate_blocks
from dit_accel.kernels.int8_truth import (
    SMALLEST_PEAK,
    largest,
    quantise_rows,
    quantise_rows_shifted,
    rescale,
    to_grid,
)
from dit_accel.passes.quantize.affine import restored, transformed
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.weights import FP8_LARGEST, QuantWeight

Quantised = tuple[Tensor, Tensor, Tensor | None]
"""int8 [M, K], its scale fp32 [M, 1] or [1, 1], and its zero int32 [M, 1] where the grid is not symmetric."""


class Step:
    """Where a run is, as layers see it; Python values, for compiled graphs are chosen by them.

    Attributes:
        exact: Compute with the weights as they were.
        bin: Part of the run, for scales that are fixed by part.
    """

    def __init__(self) -> None:
        self.exact = False
        self.bin = 0


class QuantLinear(nn.Module):
    """A linear layer on integers.

    It has no ``weight``: whoever would change one in place (a LoRA that is fused) is told so by an ``AttributeError``.

    Args:
        original: The layer it stands for; its bias is used as it is.
        weight: Its weight in few bits, of the smoothed and rotated matrix if there is smoothing or rotation.
        scheme: The grid of the input.
        step: Shared by all layers of a denoiser.
        inverse_smooth: [K], by what the input channels are multiplied beforehand; ``None``: nothing.
        affine: ``left`` and ``right`` of a learned transform, after the smoothing; ``None``: there is none.
        act_scale: fp32 [bins], of fixed scales.
        keep: Whether to hold on to ``original``, for the steps that are exact and for copies.
        with_bias: Whether its bias is added here.

    Attributes:
        named: The scheme as text.
        moves_original: Whether ``original`` goes where this layer goes, for steps that compute with it.
        way: How it multiplies: from this layer and rows [M, K] to fp32 or the rows' dtype [M, N].
    """

    values: Tensor
    scale: Tensor
    multiplier: Tensor | None
    zero: Tensor | None
    inverse_smooth: Tensor | None
    left: Tensor | None
    right: Tensor | None
    act_scale: Tensor | None
    column_sums: Tensor | None
    original: nn.Linear | nn.Conv2d | None

    def __init__(
        self,
        original: nn.Linear | nn.Conv2d,
        weight: QuantWeight,
        scheme: QuantScheme,
        step: Step,
        *,
        inverse_smooth: Tensor | None = None,
        affine: tuple[Tensor, Tensor] | None = None,
        act_scale: Tensor | None = None,
        keep: bool = True,
        with_bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = weight.in_features, len(weight.scale)
        self.scheme, self.step, self.group = scheme, step, weight.group
        self.named = str(scheme)
        self.block = block_for(self.in_features) if scheme.rotate else 1
        self.bias = original.bias if with_bias else None
        device = original.weight.device
        buffers = {
            "values": weight.values,
            "scale": weight.scale,
            "multiplier": weight.multiplier,
            "zero": weight.zero,
            "inverse_smooth": None if inverse_smooth is None else inverse_smooth.float(),
            "left": None if affine is None else affine[0].float(),
            "right": None if affine is None else affine[1].float(),
            "act_scale": None if act_scale is None else act_scale.float(),
            "column_sums": None if scheme.a_symmetric else weight.integers().sum(1, dtype=torch.int32),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, None if tensor is None else tensor.to(device))
        self.way: Callable[[QuantLinear, Tensor], Tensor] = reference
        # Not a submodule: it is not moved, counted, saved or offloaded with this one.
        vars(self)["original"] = original if keep else None
        self.moves_original = False
        self.train(original.training)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] to [..., N], in the dtype of ``x``."""
        if self.step.exact and self.original is not None:
            return self.exactly(x)
        rows = x.reshape(-1, self.in_features)
        return self.way(self, rows).to(x.dtype).view(*x.shape[:-1], self.out_features)

    def exactly(self, x: Tensor) -> Tensor:
        """By the layer that it stands for; where only this one was brought to ``x``, with a copy for the call."""
        assert self.original is not None
        if self.original.weight.device == x.device:
            plain: Tensor = self.original(x)
            return plain
        brought = {name: each.to(x.device) for name, each in self.original.named_parameters()}
        out: Tensor = functional_call(self.original, brought, (x,))
        return out

    def weight_as_kept(self) -> QuantWeight:
        """The buffers as one object."""
        return QuantWeight(
            values=self.values,
            scale=self.scale,
            multiplier=self.multiplier,
            zero=self.zero,
            in_features=self.in_features,
            group=self.group,
        )

    def plain_weight(self) -> Tensor:
        """fp32 [N, K]: the weight multiplied out, smoothing, transform and rotation taken back."""
        weight = rotate_blocks(self.weight_as_kept().dequantised(), self.block)
        if self.left is not None and self.right is not None:
            weight = restored(weight, self.left, self.right)
        return weight if self.inverse_smooth is None else weight * self.inverse_smooth

    def prepared(self, rows: Tensor) -> Tensor:
        """Rows [M, K] smoothed, transformed and rotated; as they are without any of it."""
        if self.inverse_smooth is not None:
            rows = rows.float() * self.inverse_smooth
        if self.left is not None and self.right is not None:
            rows = transformed(rows.float(), self.left, self.right)
        return rotate_blocks(rows.float(), self.block) if self.block > 1 else rows

    def quantised(self, rows: Tensor) -> Quantised:
        """Rows [M, K] in integers, with all that is done before."""
        rows, bits = self.prepared(rows), self.scheme.a_bits
        if self.act_scale is not None:
            scale = self.act_scale[min(self.step.bin, len(self.act_scale) - 1)].view(1, 1)
            return to_grid(rows, 1 / scale, largest(bits)), scale, None
        if self.scheme.granularity == "tensor":
            values, scale, zero = self._rows_as_one(rows, bits)
            return values.view(rows.shape), scale, zero
        if self.scheme.a_symmetric:
            return *quantise_rows(rows, bits=bits), None
        return quantise_rows_shifted(rows, bits=bits)

    def _rows_as_one(self, rows: Tensor, bits: int) -> Quantised:
        flat = rows.reshape(1, -1)
        if self.scheme.a_symmetric:
            return *quantise_rows(flat, bits=bits), None
        return quantise_rows_shifted(flat, bits=bits)

    def with_zeros(self, acc: Tensor, values: Tensor, zero: Tensor | None) -> Tensor:
        """int32 [M, N]: sums of products less what the zero points of either side add to them."""
        if zero is not None and self.column_sums is not None:
            acc = acc - zero * self.column_sums
        if self.zero is not None and self.multiplier is None:
            sums = values.sum(1, keepdim=True, dtype=torch.int32)
            if zero is not None:
                sums = sums - zero * self.in_features
            acc = acc - sums * self.zero
        return acc

    def let_go(self) -> None:
        """Forget the layer that this one stands for."""
        vars(self)["original"] = None

    @property
    def nbytes(self) -> int:
        """Bytes of all that it keeps, bias included, ``original`` not."""
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, scheme={self.scheme}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantLinear":
        # Scales stay fp32 when a model is cast: a bf16 scale is off by more than half a step of 8 bits.
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            now = self._buffers[name]
            if now is not None and now.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(now.device)
        if self.original is not None:
            for parameter in self.own_parameters(self.original):
                moved = fn(parameter.data if self.moves_original else parameter.data[:0])
                if moved.device.type != "meta":
                    parameter.data = moved if self.moves_original else parameter.data.to(moved.dtype)
        return self

    def own_parameters(self, original: nn.Module) -> list[nn.Parameter]:
        """What of the layer that it stands for is not in use here, as a shared bias is."""
        return [each for each in original.parameters() if each is not self.bias]

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """A copy of an accelerated model is a plain one, as long as there is something to copy."""
        if self.original is not None:
            plain: nn.Module = copy.deepcopy(self.original, memo)
            return plain
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        for name, value in vars(self).items():
            vars(twin)[name] = value if name in ("scheme", "way") else copy.deepcopy(value, memo)
        return twin


def reference(layer: QuantLinear, rows: Tensor) -> Tensor:
    """What defines the result: the products of integers in fp64, or those of multiplied out floats in fp32."""
    from dit_accel.kernels.int8_truth import int_matmul

    if layer.scheme.floats:
        return _float_reference(layer, rows)
    if layer.scheme.a_bits == 16:
        return dequantise(layer, rows)
    return on_integers(layer, rows, int_matmul)


def on_integers(
    layer: QuantLinear, rows: Tensor, multiply: Callable[[Tensor, Tensor], Tensor], weight: Tensor | None = None
) -> Tensor:
    """fp32 [M, N] by a product of integers; ``weight`` int8 [N, K], where it is unpacked already."""
    weight = layer.weight_as_kept().integers() if weight is None else weight
    values, scale, zero = layer.quantised(rows)
    acc = layer.with_zeros(multiply(values, weight), values, zero)
    return rescale(acc, scale, layer.scale, layer.bias)


def dequantise(layer: QuantLinear, rows: Tensor) -> Tensor:
    """[M, N] with the weight multiplied out and the activations as they are: saves memory, not time."""
    weight = layer.weight_as_kept().dequantised().to(rows.dtype)
    return F.linear(layer.prepared(rows).to(rows.dtype), weight, layer.bias)


def quantise_floats(rows: Tensor) -> tuple[Tensor, Tensor]:
    """float8 [M, K] and scales fp32 [M, 1]."""
    rows = rows.float()
    scale = rows.abs().amax(-1, keepdim=True).clamp_min(SMALLEST_PEAK) / FP8_LARGEST
    return (rows / scale).clamp(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn), scale


def _float_reference(layer: QuantLinear, rows: Tensor) -> Tensor:
    values, scale = quantise_floats(layer.prepared(rows))
    return rescale(values.float() @ layer.values.float().mT, scale, layer.scale, layer.bias)
