"""What each block of queries does *not* read, summed up: the total of all blocks minus those of the table.

The linear branch of SLA (2509.24006) needs, for every block of queries, the sum of phi(K_j)^T V_j over the blocks of
keys that its sparse attention leaves out. At high sparsity these are nearly all of them, so the few that are read are
taken off the total instead.

It is one linear map, (1 - A) x with A the table as a matrix of zeros and ones. Its gradient is (1 - A)^T g: the same
map over the table seen from the keys. One kernel is forward and backward, to any order.
"""

from typing import Any

import torch
from torch import Tensor

from dit_accel.kernels.block_sparse import uses_triton
from dit_accel.kernels.block_table import BlockTable, mask_of, transposed


def marginal_sums(x: Tensor, table: BlockTable, *, scale: float = 1.0, backend: str = "auto") -> Tensor:
    """For each block of queries the sum over the blocks of keys that it does not read.

    Args:
        x: [B, H, Mk, F], one vector for each block of keys, any strides.
        table: Of Mq rows over Mk blocks, for B and H or for one of them.
        scale: Of the result, before it is rounded: sums over a long sequence do not fit into fp16.
        backend: ``"auto"``: Triton on CUDA, else a product with 1 - A, which computes what it is told and no less.

    Returns:
        [B, H, Mq, F] in the dtype of ``x``, summed up in fp32 (fp64 of fp64). A row that reads everything is 0.

    Raises:
        ValueError: ``x`` has another number of blocks than the table.
    """
    if x.shape[-2] != table.num_key_blocks:
        raise ValueError(f"the table is over {table.num_key_blocks} blocks of keys, and there are {x.shape[-2]}")
    lut_of_keys, counts_of_keys = table.of_keys if table.of_keys is not None else (None, None)
    out: Tensor = _sums(x, table.lut, table.counts, lut_of_keys, counts_of_keys, scale, backend)
    return out


def marginal_sums_truth(x: Tensor, table: BlockTable) -> Tensor:
    """The same as a product with 1 - A, in the precision of ``x``."""
    return (~table.mask).to(x.dtype) @ x


@torch.library.custom_op("dit_accel::marginal_sums", mutates_args=())
def _sums(
    x: Tensor,
    lut: Tensor,
    counts: Tensor,
    lut_of_keys: Tensor | None,
    counts_of_keys: Tensor | None,
    scale: float,
    backend: str,
) -> Tensor:
    if uses_triton(x, backend):
        from dit_accel.kernels import marginal_sums_triton

        return marginal_sums_triton.run(x, lut, counts, scale)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    unread = ~mask_of(lut, counts, x.shape[-2])
    return (unread.to(dtype) @ x.to(dtype) * scale).to(x.dtype)


@_sums.register_fake
def _(x: Tensor, lut: Tensor, counts: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:2], counts.shape[-1], x.shape[-1]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *tables, ctx.scale, ctx.backend = inputs
    ctx.num_key_blocks = x.shape[-2]
    ctx.save_for_backward(*tables)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    lut, counts, lut_of_keys, counts_of_keys = ctx.saved_tensors
    if lut_of_keys is None or counts_of_keys is None:
        lut_of_keys, counts_of_keys = transposed(lut, counts, ctx.num_key_blocks)
    back = _sums(gradient, lut_of_keys, counts_of_keys, lut, counts, ctx.scale, ctx.backend)
    return back, None, None, None, None, None, None


_sums.register_autograd(_differentiate, setup_context=_save)
