"""SLA's attention of one layer as a module: few blocks exactly, the rest by linear attention, if that was trained."""

from typing import Literal

import torch
from torch import Tensor, nn

from dit_accel.kernels.attention import sparse_or_dense, why_dense
from dit_accel.kernels.block_select import kept_of, mean_scores, table_of_best
from dit_accel.kernels.block_table import BlockTable, num_blocks
from dit_accel.kernels.linear_attention import FeatureMap, features, linear_attention
from dit_accel.passes.attention.choosing import AttendedSequence
from dit_accel.passes.attention.ordering import Order, TokenOrder

Scope = Literal["marginal", "all"]
SCOPES: tuple[Scope, ...] = ("marginal", "all")


class SLAAttention(nn.Module):
    """O = O_sparse + proj(O_linear), with gradients by q, k, v and ``proj`` (SLA, 2509.24006, eq. 6).

    ``proj`` starts as zero, so that an untrained layer is sparse attention; it is one D x D matrix for all heads of a
    layer, in fp32, as the authors have it. Nothing is learned about which blocks are computed: the choice has no
    gradient.

    Args:
        head_dim: D.
        density: Share of the key blocks that each block of queries computes exactly, at least one.
        block: Tokens in a block.
        feature_map: phi of the linear branch.
        scope: What the linear branch sees: the ``"marginal"`` blocks, those that the sparse one leaves out (the
            paper), or ``"all"`` (the authors' later code).
        order: What blocks are cut from: ``"raster"`` or ``"tiles"``; tiles need :meth:`begin` with a layout.
        linear: Whether there is a linear branch.

    Attributes:
        order: Of the tokens.
        text: First and one past the last token of text: its queries see everything, its keys are always computed.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        density: float = 0.1,
        block: int = 64,
        feature_map: FeatureMap = "softmax",
        scope: Scope = "marginal",
        order: Order = "raster",
        linear: bool = True,
    ) -> None:
        super().__init__()
        self.density = density
        self.block = block
        self.feature_map: FeatureMap = feature_map
        self.scope: Scope = scope
        self.order = TokenOrder(order, block)
        self.text: tuple[int, int] | None = None
        self.proj: nn.Linear | None = None
        if linear:
            self.proj = nn.Linear(head_dim, head_dim, dtype=torch.float32)
            nn.init.zeros_(self.proj.weight)
            nn.init.zeros_(self.proj.bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Attention of q, k and v [B, N, H, D], behind the rotary embedding, to [B, N, H, D].

        Args:
            q: Queries.
            k: Keys, of as many tokens.
            v: Values.
            scale: Of the scores; ``None``: 1 / sqrt(D). The linear branch has none.
        """
        q, k, v = self.order.there(q, k, v)
        return self.order.back(self._attended(q, k, v, scale))

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        table = self.table(q, k)
        out = sparse_or_dense(q, k, v, table, scale=scale)
        if self.proj is None or why_dense(q) is not None:
            return out
        phi_q, phi_k = features(q, self.feature_map), features(k, self.feature_map)
        # Nothing is left where all is computed; over everything there would be, and rows of text need no help.
        rest = linear_attention(phi_q, phi_k, v, table if self.scope == "marginal" else None)
        weight, bias = self.proj.weight.to(q.device), self.proj.bias.to(q.device)
        added = nn.functional.linear(rest.to(weight.dtype), weight, bias).to(out.dtype)
        whole = table.counts == table.num_key_blocks  # [B, H, M]
        rows = whole.repeat_interleave(self.block, -1, output_size=whole.shape[-1] * self.block)[..., : q.shape[1]]
        return out + added.masked_fill(rows.transpose(1, 2)[..., None], 0.0)

    @torch.no_grad()
    def table(self, q: Tensor, k: Tensor) -> BlockTable:
        """The blocks that are computed exactly: those with the most similar means."""
        sequence = AttendedSequence(length=q.shape[1], text=self.text)
        text = sequence.text_blocks(self.block)
        keep = kept_of(self.density, num_blocks(k.shape[1], self.block) - len(text))
        scores = mean_scores(q, k, block_q=self.block, block_k=self.block)
        return table_of_best(scores, keep, block_q=self.block, block_k=self.block, text=text, text_rows=text)

    def begin(self, sequence: AttendedSequence) -> None:
        """A run begins, or training on sequences of another size."""
        self.text = sequence.text
        self.order.begin(sequence)

    def left_out(self, sequence: AttendedSequence) -> float:
        """By blocks."""
        if sequence.length is None:
            return 1 - self.density
        blocks, text = num_blocks(sequence.length, self.block), len(sequence.text_blocks(self.block))
        kept = text + kept_of(self.density, blocks - text)
        return (blocks - text) * (blocks - kept) / blocks**2
