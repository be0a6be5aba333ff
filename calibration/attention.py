"""Finds for each head the order of tokens, and for each part of a run the blocks, that hold the mass of its attention.

From what :mod:`.attention_record` has recorded, on prompts that nothing is judged by.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from dit_accel.calibration.attention_record import AttentionRecord
from dit_accel.errors import ConfigError
from dit_accel.passes.attention.bits import pack
from dit_accel.passes.attention.layout import ORDERS
from dit_accel.passes.attention.paro_config import PAROAttentionConfig

EVERY_ORDER = tuple(range(len(ORDERS)))

Share = Literal["head", "model"]
"""Who shares a budget of blocks: each head has its own, or all heads of a part of the run have one together."""


def choose_paro(
    record: AttentionRecord,
    *,
    density: float | None = None,
    mass: float | None = None,
    share: Share = "model",
    orders: Sequence[int] | torch.Tensor = EVERY_ORDER,
    dense_steps_frac: float = 0.0,
) -> PAROAttentionConfig:
    """The plan that keeps most of the mass.

    Args:
        record: Of the model.
        density: Share of the blocks to compute; either this or ``mass``.
        mass: Share of each head's weight to keep, in as few blocks as that takes.
        share: Who shares the budget of ``density``.
        orders: Which of the six orders a head may be given, of which it gets the one whose blocks hold the most; or
            uint8 [L, H], the one that each head is to have.
        dense_steps_frac: See :class:`~dit_accel.passes.attention.rules.DenseRules`.

    Returns:
        A plan whose density is ``density`` up to one block, and somewhat more where every row has its one block or
        text is dense at a small density.

    Raises:
        ConfigError: Impossible targets.
    """
    given = density if density is not None else mass
    if (density is None) == (mass is None) or given is None or not 0 < given <= 1:
        raise ConfigError(f"give a density or a mass in (0, 1], got density={density!r}, mass={mass!r}")
    sums, ranked, choices = _in_orders(record, orders)
    kept = _kept_by_mass(sums, ranked, given) if mass is not None else _kept_by_density(ranked, given)
    # Fewer blocks for the same mass, or more mass in as many blocks: either way, mass for each block that is computed.
    held, cost = (sums * kept).sum((-1, -2)).mean(0), kept.double().mean((-1, -2, 0))  # [L, O, H]
    best = (-cost if mass is not None else held).argmax(1)  # [L, H]
    chosen = best[None, :, None, :, None, None].expand(len(sums), -1, 1, -1, *sums.shape[-2:])
    if density is not None and share == "model":
        kept = kept_together(ranked.gather(2, chosen).squeeze(2), density)
    else:
        kept = kept.gather(2, chosen).squeeze(2)
    own = choices.gather(1, best[:, None]).squeeze(1)
    return paro_of(record, own, kept, dense_steps_frac=dense_steps_frac)


def _in_orders(
    record: AttentionRecord, orders: Sequence[int] | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Recorded and ranked sums in the orders to choose from [P, L, O, H, M, M], and which these are [L, O, H]."""
    num_layers, num_heads = record.sums.shape[1], record.sums.shape[3]
    if isinstance(orders, torch.Tensor):
        if orders.shape != (num_layers, num_heads) or not 0 <= int(orders.min()) <= int(orders.max()) < len(ORDERS):
            raise ConfigError(
                f"'orders' must be numbers from 0 to {len(ORDERS) - 1} of {num_layers} layers and {num_heads} heads, "
                f"got {list(orders.shape)}"
            )
        choices = orders.long()[:, None]
    elif not orders or not set(orders) <= set(range(len(ORDERS))):
        raise ConfigError(f"'orders' must be some of 0 to {len(ORDERS) - 1}, got {list(orders)}")
    else:
        choices = torch.tensor(orders)[None, :, None].expand(num_layers, -1, num_heads)
    places = choices[None, ..., None, None].expand(len(record.sums), -1, -1, -1, *record.sums.shape[-2:])
    ranked = ranked_sums(record, EVERY_ORDER)
    return record.sums.gather(2, places), ranked.gather(2, places), choices


def ranked_sums(record: AttentionRecord, orders: Sequence[int]) -> torch.Tensor:
    """The recorded sums in some orders [P, L, O, H, M, M], raised above all others where always computed."""
    sums = record.sums[:, :, list(orders)]
    return sums + 2.0 * _forced(sums, record)


def best_orders(record: AttentionRecord, orders: Sequence[int], density: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Each head's order that holds most at a density: int64 [L, H], and its place [P, L, 1, H, M, M]."""
    sums, ranked = record.sums[:, :, list(orders)], ranked_sums(record, orders)
    best = (sums * _kept_by_density(ranked, density)).sum((-1, -2)).mean(0).argmax(1)
    places = best[None, :, None, :, None, None].expand(len(sums), -1, 1, -1, *sums.shape[-2:])
    return torch.tensor(orders)[best], places


def paro_of(
    record: AttentionRecord, orders: torch.Tensor, kept: torch.Tensor, *, dense_steps_frac: float = 0.0
) -> PAROAttentionConfig:
    """A plan of chosen orders [L, H] and blocks bool [P, L, H, M, M]."""
    return PAROAttentionConfig(
        grid=record.layout.size,
        text=record.layout.text,
        layers=record.layers,
        orders=orders.to(torch.uint8),
        masks=pack(kept.flatten(-2)),
        block=record.block,
        dense_steps_frac=dense_steps_frac,
    )


def _forced(sums: torch.Tensor, record: AttentionRecord) -> torch.Tensor:
    """0 or 1: the largest block of every row, so that no query is left without a key, and all text."""
    largest = torch.zeros_like(sums, dtype=torch.bool).scatter_(-1, sums.argmax(-1, keepdim=True), True)
    return record.layout.with_text(largest, record.block).to(sums.dtype)


def _kept_by_density(ranked: torch.Tensor, density: float) -> torch.Tensor:
    """The highest blocks of each head."""
    flat = ranked.flatten(-2)
    count = max(1, round(density * flat.shape[-1]))
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, flat.topk(count).indices, True)
    return (kept | (flat >= 2)).view(ranked.shape)


def kept_together(ranked: torch.Tensor, density: float) -> torch.Tensor:
    """The highest blocks of all heads of a part [P, L, H, M, M]."""
    flat = ranked.flatten(1)
    count = max(1, round(density * flat.shape[-1]))
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, flat.topk(count).indices, True)
    return (kept | (flat >= 2)).view(ranked.shape)


def _kept_by_mass(sums: torch.Tensor, ranked: torch.Tensor, mass: float) -> torch.Tensor:
    """As few of the highest blocks of each head as hold the mass."""
    places = ranked.flatten(-2).argsort(-1, descending=True)
    held = sums.flatten(-2).gather(-1, places).cumsum(-1)
    before = torch.nn.functional.pad(held, (1, 0))[..., :-1]
    kept = torch.zeros_like(held, dtype=torch.bool).scatter_(-1, places, before < mass)
    return (kept | (ranked.flatten(-2) >= 2)).view(ranked.shape)
