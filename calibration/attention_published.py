"""PAROAttention's own score of an order of tokens (2506.16054), beside ours: which order of the six a head is given.

    M(T) = a * M_sparse(T) / sum_T' M_sparse + (1 - a) * M_quant(T) / sum_T' M_quant,   the lowest is chosen

with M_sparse the share of blocks of which at least ``sigma`` of the weights are below ``limit``, and M_quant the mean
over blocks of largest by mean weight. As far as we know ``a`` is not published. A reader has called the sign of the
first term wrong, since many nearly empty blocks are what one wants; so it can be turned round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dit_accel.kernels.block_table import block_lengths
from dit_accel.kernels.pooled_scores import SMALL, pooled_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderScores:
    """What the published score is made of, for heads in O orders.

    Attributes:
        sparse: [O, H], M_sparse.
        quant: [O, H], M_quant.
    """

    sparse: Tensor
    quant: Tensor

    @classmethod
    def mean(cls, scores: "Sequence[OrderScores]") -> "OrderScores":
        """That of one layer over several calls."""
        return cls(
            sparse=torch.stack([each.sparse for each in scores]).mean(0).cpu(),
            quant=torch.stack([each.quant for each in scores]).mean(0).cpu(),
        )

    def combined(self, alpha: float = 0.5, *, more_is_better: bool = False) -> Tensor:
        """M [O, H]; the lowest is the order to choose.

        Args:
            alpha: Weight of the first term.
            more_is_better: Count many nearly empty blocks as good, against the published sign.
        """
        sign = -1.0 if more_is_better else 1.0
        parts = (each / each.sum(0).clamp_min(1e-12) for each in (self.sparse, self.quant))
        sparse, quant = parts
        return sign * alpha * sparse + (1 - alpha) * quant


def order_scores(
    q: Tensor,
    k: Tensor,
    permutations: Tensor,
    *,
    scale: float | None = None,
    block: int = 64,
    limit: float = SMALL,
    sigma: float = 0.9,
) -> OrderScores:
    """Score the orders of a layer's heads by its attention in one call.

    Args:
        q: [B, N, H, D], in the model's order.
        k: [B, N, H, D].
        permutations: int64 [O, N], the tokens in each order.
        scale: Of the scores; ``None``: 1 / sqrt(D).
        block: Tokens in a block.
        limit: Weights below it are small.
        sigma: Share of small weights from which on a block counts as nearly empty.
    """
    lengths = block_lengths(q.shape[1], block).to(q.device, torch.float64)
    sizes = lengths[:, None] * lengths
    sparse, quant = [], []
    for order in permutations.to(q.device):
        found = pooled_scores(
            q.index_select(1, order),
            k.index_select(1, order),
            scale=scale,
            block_q=block,
            block_k=block,
            small=limit,
        )
        empty = found.small.to(torch.float64) / sizes >= sigma
        sparse.append(empty.double().mean((0, 2, 3)))
        quant.append((found.maxima.double() / (found.sums.double() / sizes).clamp_min(1e-30)).mean((0, 2, 3)))
    return OrderScores(sparse=torch.stack(sparse), quant=torch.stack(quant))


def published_orders(scores: Sequence[OrderScores], *, alpha: float = 0.5, more_is_better: bool = False) -> Tensor:
    """uint8 [L, H], for each layer and head the order that scores lowest: the ``orders`` of a plan.

    Args:
        scores: Of each layer, as :func:`~dit_accel.calibration.attention.record_attention` records them.
        alpha: See :meth:`OrderScores.combined`.
        more_is_better: See there.
    """
    return torch.stack([each.combined(alpha, more_is_better=more_is_better).argmin(0) for each in scores]).byte()
