"""Small attention problems for tests: odd sizes, random tables with an empty and a full row, relative errors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dit_accel.kernels.block_sparse_truth import block_sparse_truth
from dit_accel.kernels.block_table import BlockTable, num_blocks


@dataclass(frozen=True, kw_only=True)
class Problem:
    """q, k and v [B, N, H, D] in fp64, and which blocks are computed."""

    q: Tensor
    k: Tensor
    v: Tensor
    table: BlockTable
    key_mask: Tensor | None = None

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """Leaves in a dtype that want a gradient."""
        return tuple(each.detach().to(device, dtype).requires_grad_() for each in (self.q, self.k, self.v))

    def truth(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp in the precision of the inputs."""
        sizes = {"block_q": self.table.block_q, "block_k": self.table.block_k}
        return block_sparse_truth(
            q, k, v, self.table.lut, self.table.counts, scale=scale, key_mask=self.key_mask, **sizes
        )


def problem(
    num_queries: int = 75,
    num_keys: int = 91,
    *,
    heads: int = 2,
    dim: int = 16,
    batch: int = 1,
    block_q: int = 16,
    block_k: int = 16,
    density: float = 0.5,
    size: float = 1.0,
    padded: bool = False,
    shared: bool = False,
    seed: int = 0,
) -> Problem:
    """A random problem whose second row of blocks reads nothing and whose third reads everything."""
    draw = torch.Generator().manual_seed(seed)
    q = size * torch.randn(batch, num_queries, heads, dim, generator=draw, dtype=torch.float64)
    k, v = (torch.randn(batch, num_keys, heads, dim, generator=draw, dtype=torch.float64) for _ in range(2))
    lead = (1, 1) if shared else (batch, heads)
    mask = torch.rand(*lead, num_blocks(num_queries, block_q), num_blocks(num_keys, block_k), generator=draw) < density
    mask[..., 1, :] = False
    if mask.shape[-2] > 2:
        mask[..., 2, :] = True
    key_mask = torch.rand(batch, num_keys, generator=draw) < 0.7 if padded else None
    if key_mask is not None:
        key_mask[:, :block_k] = False
    return Problem(
        q=q, k=size * k, v=v, table=BlockTable.from_mask(mask, block_q=block_q, block_k=block_k), key_mask=key_mask
    )


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Root of the mean square error over that of the truth, in fp64; infinities must agree."""
    value, truth = value.detach().to("cpu", torch.float64), truth.detach().to("cpu", torch.float64)
    finite = truth.isfinite()
    assert torch.equal(value.isfinite(), finite), "NaN or infinity in different places"
    assert torch.equal(value[~finite], truth[~finite])
    return float((value[finite] - truth[finite]).norm() / truth[finite].norm().clamp_min(1e-12))
