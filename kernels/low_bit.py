"""Numbers of few bits for attention, as SageAttention (2410.02367, 2411.10958) and PAROAttention choose them.

Keys are smoothed first: the mean key is taken off all of them, which shifts each row of scores by a constant, leaves
the softmax as it is, and takes away what wastes the most of 8 bits. The log-sum-exp gets the shift back.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Precision = Literal["plain", "int8", "int8+plain", "int8+float8"]
"""Of q k^T, and of p v where that is another: ``"int8"`` is INT8 in both, ``"int8+plain"`` leaves p v as it is."""
PRECISIONS: tuple[Precision, ...] = ("plain", "int8", "int8+plain", "int8+float8")
FLOAT8 = torch.float8_e4m3fn
LARGEST_FLOAT8 = 448.0
LEAST_SUMMED = 32
"""What a product of 8-bit numbers has to sum over on tensor cores: the head size in q k^T, a tile of keys in p v."""
SINCE_FLOAT8 = (8, 9)
"""Compute capability of the first GPUs of NVIDIA's that multiply FP8."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LowBits:
    """q, k and v in few bits.

    Attributes:
        q: int8 [B, Nq, H, D].
        q_unit: fp32 [B, H, Nq], what one in ``q`` means: a scale for each query.
        k: int8 [B, Nk, H, D], smoothed.
        k_unit: fp32 [B, H, Mk]: one for each block.
        v: int8, float8_e4m3fn, or as it came, [B, Nk, H, D].
        v_unit: fp32 [B, H, Mk, D]: one for each block and channel; ones where ``v`` is as it came.
        mean: fp32 [B, H, D], the mean key.
    """

    q: Tensor
    q_unit: Tensor
    k: Tensor
    k_unit: Tensor
    v: Tensor
    v_unit: Tensor
    mean: Tensor

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, *, block: int, precision: Precision) -> "LowBits":
        """Those of attention's inputs [B, N, H, D], keys in blocks of ``block``."""
        mean = k.nanmean(1, keepdim=True, dtype=torch.float32)  # any constant would do: NaN stays with its own key
        smooth = k.to(torch.float32) - mean
        q_unit = _unit(q.abs().amax(-1), 127.0)  # [B, Nq, H]
        k_unit = _unit(_blocks(smooth.abs().amax(-1), block).amax(2), 127.0)  # [B, Mk, H]
        rows = _rows(k_unit, block, k.shape[1])[..., None]
        v_unit = torch.ones(*k_unit.shape, v.shape[-1], device=v.device)
        small = v
        if precision in ("int8", "int8+float8"):
            largest = 127.0 if precision == "int8" else LARGEST_FLOAT8
            v_unit = _unit(_blocks(v.abs(), block).amax(2), largest)  # [B, Mk, H, D]
            scaled = v / _rows(v_unit, block, v.shape[1])
            small = _int8(scaled) if precision == "int8" else scaled.to(FLOAT8)
        return cls(
            q=_int8(q / q_unit[..., None]),
            q_unit=q_unit.transpose(1, 2).contiguous(),
            k=_int8(smooth / rows),
            k_unit=k_unit.transpose(1, 2).contiguous(),
            v=small,
            v_unit=v_unit.transpose(1, 2).contiguous(),
            mean=mean[:, 0],
        )

    def restored(self, block: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """What the bits say, keys smoothed: q, k and v [B, N, H, D]."""
        length = self.k.shape[1]
        q = self.q * self.q_unit.transpose(1, 2)[..., None]
        k = self.k * _rows(self.k_unit.transpose(1, 2), block, length)[..., None]
        v = self.v.to(torch.float32) * _rows(self.v_unit.transpose(1, 2), block, length)
        return q.to(dtype), k.to(dtype), v.to(dtype)

    def shift(self, q: Tensor, scale: float) -> Tensor:
        """fp32 [B, H, Nq]: by how much smoothing has lowered each query's scores."""
        return torch.einsum("bnhd,bhd->bhn", q.to(torch.float32), self.mean) * scale


def why_too_small(head_dim: int, block_k: int, precision: Precision) -> str | None:
    """Why there are no products in few bits of such heads over such blocks of keys; ``None``: there are.

    The same on every device, so that a plan means the same.
    """
    if head_dim < LEAST_SUMMED:
        return f"products in few bits need heads of at least {LEAST_SUMMED}, and these are of size {head_dim}"
    if block_k < LEAST_SUMMED and precision != "int8+plain":
        return f"products in few bits need blocks of at least {LEAST_SUMMED} keys, and these have {block_k}"
    return None


@torch.compiler.assume_constant_result
def why_no_float8(device: torch.device) -> str | None:
    """Why a device cannot multiply FP8; ``None``: it can, or the CPU stands in for one that does."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    if (properties.major, properties.minor) >= SINCE_FLOAT8:
        return None
    return (
        f"products in FP8 need a GPU of compute capability {SINCE_FLOAT8[0]}.{SINCE_FLOAT8[1]} or more, and "
        f"{properties.name} has {properties.major}.{properties.minor}; precision 'int8' runs on it"
    )


def _int8(values: Tensor) -> Tensor:
    # Half away from zero, as the published kernels round.
    return (values + 0.5 * values.sign()).trunc().clamp(-127, 127).to(torch.int8)


def _unit(largest: Tensor, of: float) -> Tensor:
    return largest.to(torch.float32).clamp_min(1e-12) / of


def _blocks(tokens: Tensor, block: int) -> Tensor:
    """[B, N, ...] -> [B, M, block, ...], filled up with zeros."""
    missing = -tokens.shape[1] % block
    blocks: Tensor = pad(tokens, [0, 0] * (tokens.ndim - 2) + [0, missing]).unflatten(1, (-1, block))
    return blocks


def _rows(blocks: Tensor, block: int, length: int) -> Tensor:
    """[B, M, ...] -> [B, N, ...]."""
    rows: Tensor = blocks.repeat_interleave(block, 1, output_size=blocks.shape[1] * block)[:, :length]
    return rows
