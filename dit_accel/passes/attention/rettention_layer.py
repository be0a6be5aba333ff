"""Re-ttention of one layer: what was left out at the last whole step stands in for what is left out now."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dit_accel.kernels.block_sparse import attend
from dit_accel.passes.attention.choosing import AttendedSequence
from dit_accel.passes.attention.static_mask import StaticTable, static_table
from dit_accel.passes.attention.static_patterns import Pattern

Storage = Literal["as computed", "bfloat16", "float16", "float8"]
STORAGES: tuple[Storage, ...] = ("as computed", "bfloat16", "float16", "float8")
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float8": torch.float8_e4m3fn}
_LARGEST_FLOAT8 = 448.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kept:
    """What a layer keeps of a whole step, for one guidance branch.

    Attributes:
        share: rho, fp32 [B, N, H, 1], tokens in the mask's order: how much of a query's softmax weight the computed
            blocks held.
        rest: [B, N, H, D], in the same order: the output of the others, times what was left of the weight.
        unit: What one in ``rest`` means, fp32 [B, N, H, 1]; ``None``: one.
        step: The step.
    """

    share: Tensor
    rest: Tensor
    unit: Tensor | None
    step: int

    @property
    def num_bytes(self) -> int:
        """Of its tensors."""
        tensors = (self.share, self.rest, *(() if self.unit is None else (self.unit,)))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def residual(self) -> Tensor:
        """What the other blocks add, in fp32 unless it is kept as it was computed."""
        return self.rest if self.unit is None else self.rest.to(torch.float32) * self.unit


class ReshapedAttention:
    """O = rho * O_sparse + R, with rho and R of the last step at which everything was computed.

    At such a step the computed blocks and the others are two calls of the sparse kernel, and the whole output is what
    their log-sum-exps merge to: rho = exp(lse_sparse - lse_whole), and R = (1 - rho) * O_others, for which no
    difference of nearly equal outputs has to be taken.

    Args:
        pattern: Of the static mask.
        density: Of it.
        block: Of it.
        rise: lambda, by how much rho rises at every step since.
        storage: What R is kept in.

    Attributes:
        static: The mask of the run.
        kept: By guidance branch.
        branch: Of the call that is running.
        step: Of it.
        looks: Whether everything is computed in it.
        skipped: Whether the last call left anything out.
    """

    def __init__(self, *, pattern: Pattern, density: float, block: int, rise: float, storage: Storage) -> None:
        self.pattern: Pattern = pattern
        self.density = density
        self.block = block
        self.rise = rise
        self.storage: Storage = storage
        self.static: StaticTable | None = None
        self.kept: dict[Hashable, Kept] = {}
        self.branch: Hashable = None
        self.step = 0
        self.looks = True
        self.skipped = False

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """[B, N, H, D]."""
        static = self.static
        assert static is not None
        q, k, v = (static.ordered(each) for each in (q, k, v))
        out, lse = attend(q, k, v, static.table, scale=scale)
        kept = self.kept.get(self.branch)
        self.skipped = not self.looks and kept is not None
        if kept is not None and self.skipped:
            share = (kept.share + self.rise * (self.step - kept.step)).clamp_(max=1.0)
            return static.restored((out * share + kept.residual()).to(q.dtype))
        others, lse_others = attend(q, k, v, static.rest, scale=scale)
        share = (lse - torch.logaddexp(lse, lse_others)).exp().transpose(1, 2)[..., None].clamp_(max=1.0)
        rest = others * (1 - share)
        self.kept[self.branch] = self._keep(share, rest.to(q.dtype))
        return static.restored((out * share + rest).to(q.dtype))

    def begin(self, sequence: AttendedSequence) -> None:
        """A run begins: what was kept in the last one is forgotten."""
        assert sequence.layout is not None
        self.kept = {}
        self.skipped = False
        static = static_table(sequence.layout, self.pattern, block=self.block, density=self.density)
        self.static = sequence.copy_of(static)

    def left_out(self, sequence: AttendedSequence) -> float:
        """In the last call."""
        return 1 - self.static.density if self.skipped and self.static is not None else 0.0

    @property
    def num_bytes(self) -> int:
        """What is kept, of all branches."""
        return sum(kept.num_bytes for kept in self.kept.values())

    def _keep(self, share: Tensor, rest: Tensor) -> Kept:
        unit = None
        if self.storage == "float8":  # one for each token and head, so that NaN of one is none of another
            unit = rest.abs().amax(3, keepdim=True).to(torch.float32).clamp_min(1e-12) / _LARGEST_FLOAT8
            rest = rest / unit
        return Kept(share=share, rest=rest.to(_DTYPES.get(self.storage, rest.dtype)), unit=unit, step=self.step)
