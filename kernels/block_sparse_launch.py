"""Launching the Triton kernels of block-sparse attention: tiles, warps, stages, and what the interpreter needs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from dit_accel.kernels.block_sparse_backward import d_query_kernel, delta_kernel
from dit_accel.kernels.block_sparse_backward_keys import d_key_kernel
from dit_accel.kernels.block_sparse_forward import forward_kernel
from dit_accel.kernels.block_table import num_blocks

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether ``TRITON_INTERPRET=1`` was set when the kernels were defined; they run on the CPU then, slowly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Shape of a kernel.

    Attributes:
        tile_q: Queries that a program handles at a time, at most a block of the table.
        tile_k: Keys.
        num_warps: Of a program.
        num_stages: Depth of the software pipeline; fewer are tried where they do not fit.
    """

    tile_q: int
    tile_k: int
    num_warps: int
    num_stages: int


def launch_forward(block_q: int, block_k: int, head_dim: int) -> Launch:
    """A fixed choice, from the starting points of the published kernels on Hopper; nothing is tuned at run time, so
    that a new length costs nothing."""
    wide = head_dim > 64 or block_q > 64
    return Launch(tile_q=block_q, tile_k=min(block_k, 64), num_warps=8 if wide else 4, num_stages=3)


def launch_backward(block_q: int, block_k: int, head_dim: int) -> Launch:
    """As :func:`launch_forward`; two accumulators and four operands leave less room."""
    return Launch(
        tile_q=min(block_q, 64),
        tile_k=min(block_k, 64),
        num_warps=8 if head_dim > 64 else 4,
        num_stages=2 if head_dim > 64 else 3,
    )


def run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lut: Tensor,
    counts: Tensor,
    key_mask: Tensor | None,
    scale: float,
    block_q: int,
    block_k: int,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, Nq, H, D] in the dtype of ``q``, and the log-sum-exp [B, H, Nq] in fp32 (fp64 of fp64).

    ``order`` int32 [H or 1, N]: the tokens in the order that blocks are cut from; ``None``: as they lie.
    """
    batch, num_queries, heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=stored(q.dtype), device=q.device)
    lse = torch.empty(batch, heads, num_queries, dtype=accumulated(q.dtype), device=q.device)
    lut, counts = for_all(lut, counts, batch, heads)
    key_mask = None if key_mask is None else key_mask.contiguous()
    launch = launch_forward(block_q, block_k, head_dim)
    start(
        forward_kernel,
        lambda: (num_blocks(num_queries, launch.tile_q), batch * heads),
        launch,
        (
            *(q, k, v, out, lse, lut, counts, key_mask, order),
            *(*q.stride(), *k.stride(), *v.stride(), *out.stride()[:3]),
            *(*lut.stride()[:3], *counts.stride()[:2], _batch_stride(key_mask), _batch_stride(order)),
            *(heads, num_queries, k.shape[1], scale),
        ),
        {**_constants(q, launch, block_q, block_k, key_mask), "HAS_ORDER": order is not None},
    )
    return out.to(q.dtype), lse


def run_backward(
    d_out: Tensor,
    d_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    lut: Tensor,
    counts: Tensor,
    lut_of_keys: Tensor,
    counts_of_keys: Tensor,
    key_mask: Tensor | None,
    scale: float,
    block_q: int,
    block_k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK and dV in the dtypes of ``q``, ``k`` and ``v``."""
    batch, num_queries, heads, head_dim = q.shape
    num_keys = k.shape[1]
    lut, counts = for_all(lut, counts, batch, heads)
    key_mask = None if key_mask is None else key_mask.contiguous()
    lut_of_keys, counts_of_keys = for_all(lut_of_keys, counts_of_keys, batch, heads)
    launch = launch_backward(block_q, block_k, head_dim)
    constants = _constants(q, launch, block_q, block_k, key_mask)

    delta = torch.empty_like(lse)
    start(
        delta_kernel,
        lambda: (num_blocks(num_queries, launch.tile_q), batch * heads),
        launch,
        (out, d_out, d_lse, delta, *out.stride(), *d_out.stride(), *d_lse.stride(), heads, num_queries),
        {"D": head_dim, "TILE_Q": launch.tile_q, "ACC": constants["ACC"]},
    )
    d_q = torch.empty(q.shape, dtype=stored(q.dtype), device=q.device)
    inputs = (*q.stride(), *k.stride(), *v.stride(), *d_out.stride())
    sizes = (_batch_stride(key_mask), heads, num_queries, num_keys, scale)
    start(
        d_query_kernel,
        lambda: (num_blocks(num_queries, launch.tile_q), batch * heads),
        launch,
        (
            *(q, k, v, d_out, lse, delta, d_q, lut, counts, key_mask),
            *(*inputs, *d_q.stride()[:3], *lut.stride()[:3], *counts.stride()[:2], *sizes),
        ),
        constants,
    )
    d_k = torch.empty(k.shape, dtype=stored(k.dtype), device=k.device)
    d_v = torch.empty_like(d_k)
    start(
        d_key_kernel,
        lambda: (num_blocks(num_keys, launch.tile_k), batch * heads),
        launch,
        (
            *(q, k, v, d_out, lse, delta, d_k, d_v, lut_of_keys, counts_of_keys, key_mask),
            *(*inputs, *d_k.stride()[:3], *lut_of_keys.stride()[:3], *counts_of_keys.stride()[:2], *sizes),
        ),
        constants,
    )
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


def accumulated(dtype: torch.dtype) -> torch.dtype:
    """In what sums and the log-sum-exp are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def stored(dtype: torch.dtype) -> torch.dtype:
    """In what a kernel writes its results."""
    # The interpreter truncates where a GPU rounds, so it stores in fp32 and torch rounds.
    return accumulated(dtype) if INTERPRETED else dtype


def _constants(q: Tensor, launch: Launch, block_q: int, block_k: int, key_mask: Tensor | None) -> dict[str, Any]:
    return {
        "D": q.shape[-1],
        "TILE_Q": launch.tile_q,
        "TILE_K": launch.tile_k,
        "BLOCK_Q": block_q,
        "BLOCK_K": block_k,
        "HAS_KEY_MASK": key_mask is not None,
        "ACC": tl.float64 if q.dtype == torch.float64 else tl.float32,
        # The interpreter multiplies the bit patterns of bf16 (triton issue 11584).
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16,
        # TF32 has ten bits; who passes fp32 wants more.
        "PRECISION": "ieee",
    }


def for_all(lut: Tensor, counts: Tensor, batch: int, heads: int) -> tuple[Tensor, Tensor]:
    """Strides of 0 where samples or heads share a table; copied only where a row is not in one piece."""
    lut, counts = (each if each.stride(-1) == 1 else each.contiguous() for each in (lut, counts))
    return lut.expand(batch, heads, -1, -1), counts.expand(batch, heads, -1)


def _batch_stride(key_mask: Tensor | None) -> int:
    return 0 if key_mask is None or key_mask.shape[0] == 1 else key_mask.stride(0)


def start(
    kernel: Any, grid: Callable[[], tuple[int, int]], launch: Launch, args: tuple[Any, ...], constants: dict[str, Any]
) -> None:
    """Run a kernel, with a shallower pipeline where the shared memory of this device is too small."""
    while True:
        try:
            kernel[grid()](*args, **constants, num_warps=launch.num_warps, num_stages=launch.num_stages)
            return
        except triton.runtime.errors.OutOfResources:
            if launch.num_stages == 1:
                raise
            launch = replace(launch, num_stages=launch.num_stages - 1)
