"""Before a kernel is timed: does it compute what it should, in the first, the middle and the last of its rows?"""

import torch
from attention_clock import DEVICE

from dit_accel.kernels.block_table import BlockTable
from dit_accel.kernels.gather_pairs import KeyBlocks

LIMITS = {"plain": 5e-3, "int8": 0.1, "int8+plain": 3e-2, "int8+float8": 0.1}
"""Few bits cost more the longer a sequence is: theirs find what is wrong, not what is coarse."""


def check(
    found: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    table: BlockTable,
    *,
    precision: str = "plain",
    order: torch.Tensor | None = None,
) -> float:
    """Relative error of an output [1, N, H, D] against fp32, on the scores that the table names.

    Args:
        found: The output.
        q: [1, N, H, D].
        k: As ``q``.
        v: As ``q``.
        table: The blocks that were computed.
        precision: Of the products.
        order: int32 [H, N]: the tokens in the order that blocks are cut from; ``None``: as they lie.

    Raises:
        SystemExit: It is off by more than :data:`LIMITS` allow.
    """
    length, heads = q.shape[1:3]
    rows = table.counts.shape[-1]
    places = torch.arange(length, device=q.device).expand(heads, -1) if order is None else order.long()
    worst = 0.0
    for head in range(heads):
        for row in {0, rows // 2, rows - 1}:
            blocks = table.lut[0, head, row, : int(table.counts[0, head, row])].long()
            keys = (blocks[:, None] * table.block_k + torch.arange(table.block_k, device=q.device)).flatten()
            keys = places[head, keys[keys < length]]
            queries = places[head, row * table.block_q : (row + 1) * table.block_q]
            want = _attended(q[0, queries, head], k[0, keys, head], v[0, keys, head], None)
            worst = max(worst, _off(found[0, queries, head], want))
    return _allowed(worst, precision)


def check_chosen(
    found: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chosen: torch.Tensor, blocks: KeyBlocks
) -> float:
    """The same where every query has chosen its own blocks, bool [1, H, C, N].

    Raises:
        SystemExit: As :func:`check`.
    """
    length, heads = q.shape[1:3]
    worst = 0.0
    for head in range(heads):
        for first in {0, length // 2, max(0, length - 64)}:
            queries = torch.arange(first, min(length, first + 64), device=q.device)
            kept = chosen[0, head, :, queries].T[:, blocks.own]  # [64, N]
            want = _attended(q[0, queries, head], k[0, :, head], v[0, :, head], kept)
            worst = max(worst, _off(found[0, queries, head], want))
    return _allowed(worst, "plain")


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    scores = query.float() @ key.float().T * query.shape[-1] ** -0.5
    if kept is not None:
        scores = scores.masked_fill(~kept, -torch.inf)
    return scores.softmax(-1) @ value.float()


def _off(found: torch.Tensor, want: torch.Tensor) -> float:
    off = (found.float() - want).norm() / want.norm()
    return float(off.nan_to_num(torch.inf))  # the larger one of NaN and a number may be either


def _allowed(worst: float, precision: str) -> float:
    if worst > LIMITS[precision]:
        raise SystemExit(
            f"error: a kernel ({precision}) is off by {worst:.1e} of the truth on {DEVICE}, allowed is "
            f"{LIMITS[precision]:.0e}"
        )
    return worst
