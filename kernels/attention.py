"""One door to attention for those who do not care how: sparse where there is a kernel, dense where there is none.

A dense fallback gives better pictures than was planned, and no speed, so it says why, once.
"""

import logging

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dit_accel.kernels.block_sparse import HEAD_DIMS, attend
from dit_accel.kernels.block_table import BlockTable
from dit_accel.kernels.low_bit import Precision, why_no_float8, why_too_small
from dit_accel.kernels.low_bit_attention import low_bit_attention

_log = logging.getLogger("dit_accel.kernels")
_said: set[str] = set()

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sparse_or_dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: BlockTable,
    *,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    precision: Precision = "plain",
) -> Tensor:
    """Attention over the blocks of a table, or over everything where no kernel can do that.

    Args:
        q: [B, Nq, H, D].
        k: [B, Nk, H, D].
        v: [B, Nk, H, D].
        table: For these lengths.
        scale: Of the scores; ``None``: 1 / sqrt(D).
        key_mask: bool [B or 1, Nk], false for padding.
        precision: Of the products; plain where a gradient is wanted, which few bits have none of, where heads or
            blocks are too small for them, and for FP8 where the GPU has none.

    Returns:
        [B, Nq, H, D].

    Raises:
        ValueError: The table is for other lengths. That is no lack of a kernel: dense attention would hide a mistake.
    """
    table.check(q.shape[1], k.shape[1])
    reason = why_dense(q)
    if reason is None and precision != "plain":
        reason = why_plain(q, k, v, table.block_k, precision)
        if reason is None:
            few: Tensor = low_bit_attention(
                q, k, v, table, precision=precision, scale=scale, key_mask=key_mask, lse=False
            )
            return few
        say_once(reason, "attention is computed in plain precision")
        reason = None
    if reason is None:
        out: Tensor = attend(q, k, v, table, scale=scale, key_mask=key_mask, lse=False)
        return out
    say_once(reason)
    return dense(q, k, v, scale=scale, key_mask=key_mask)


def dense(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, key_mask: Tensor | None = None) -> Tensor:
    """PyTorch's own attention on [B, N, H, D]."""
    mask = None if key_mask is None else key_mask[:, None, None, :]
    query, key, value = (each.transpose(1, 2) for each in (q, k, v))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def why_dense(q: Tensor) -> str | None:
    """Why there is no sparse kernel for such queries [..., D]; ``None``: there is one. Reads no values."""
    if q.shape[-1] not in HEAD_DIMS:
        return f"there is no sparse kernel for heads of size {q.shape[-1]}, only for {', '.join(map(str, HEAD_DIMS))}"
    if q.dtype not in DTYPES:
        return f"there is no sparse kernel for {q.dtype}"
    if q.device.type not in ("cuda", "cpu", "meta"):
        return f"there is no sparse kernel for devices of type '{q.device.type}'"
    return _why_no_triton() if q.is_cuda else None


def why_plain(q: Tensor, k: Tensor, v: Tensor, block_k: int, precision: Precision) -> str | None:
    """Why these few bits will not do for such inputs; ``None``: they will. Reads no values."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return "few bits have no gradient, and one is wanted"
    if q.dtype == torch.float64:
        return f"there is no low-bit kernel for {q.dtype}"
    if (reason := why_too_small(q.shape[-1], block_k, precision)) is not None:
        return reason
    return why_no_float8(q.device) if precision == "int8+float8" else None


@torch.compiler.assume_constant_result
def _why_no_triton() -> str | None:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"there is no sparse kernel on CUDA without Triton ({error})"
    return None


# Said while a graph is made, in which there is nothing of it.
@torch.compiler.assume_constant_result
def say_once(reason: str, what: str = "attention is computed whole") -> None:
    """Log why attention is not what was asked for, once a process for each reason."""
    if reason not in _said:
        _said.add(reason)
        _log.warning("%s: %s", what, reason)
