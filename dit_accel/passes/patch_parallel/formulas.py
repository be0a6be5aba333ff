"""Bytes of self-attention by formula: what the counted ones must be, and what a plan is weighed by before any run.

With K bytes of keys and values in one rank's rows (2 B n H D elements) and N ranks, one layer of one evaluation sends

    all of them, fresh or stale (DistriFusion)   (N - 1) K a rank, N (N - 1) K in all
    a halo of a share r of the neighbours' rows  2 r K an inner rank, 2 r (N - 1) K in all
    PCPP's released code (whole neighbours)      2 K an inner rank, 2 (N - 1) K in all
    Ulysses (q, k, v and the output)             4 (N - 1) / N of one of them a rank, exact

so that a halo saves 1 - 2 r / N of DistriFusion's: 85 % at N = 4 with PCPP's r = 0.3. (PCPP, Zhang et al., 2412.02962,
claims about 70 %, which is 1 - 2 / (N - 1) for an inner rank at N = 8 that sends all of its rows, as its code does.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dit_accel.passes.patch_parallel.attention import halo_rows
from dit_accel.passes.patch_parallel.rows import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One self-attention layer of one call.

    Attributes:
        batch: Pictures of the call, both guidance branches counted where they are in one batch.
        columns: Tokens of a row, over all frames.
        width: Channels of keys (and of values).
        element_bytes: Of one element on the wire.
        scale_bytes: Of one token's scales, for a rounded one.
    """

    batch: int
    columns: int
    width: int
    element_bytes: int
    scale_bytes: int = 0

    @property
    def row_bytes(self) -> int:
        """Keys and values of one row of tokens."""
        return 2 * self.batch * self.columns * (self.width * self.element_bytes + self.scale_bytes)


def gathered_bytes(layer: LayerShape, share: Share) -> int:
    """What this rank sends, and receives, when everybody is given everybody's rows: all padded to the most rows."""
    return (share.size - 1) * max(share.counts) * layer.row_bytes


def halo_bytes(layer: LayerShape, share: Share, halo: float) -> int:
    """What this rank sends when neighbours are given a share of its rows."""
    neighbours = (share.rank > 0) + (share.rank < share.size - 1)
    return neighbours * halo_rows(share.own, halo) * layer.row_bytes


def released_pcpp_bytes(layer: LayerShape, share: Share) -> int:
    """What this rank would send by PCPP's released code: all of its rows to each neighbour."""
    neighbours = (share.rank > 0) + (share.rank < share.size - 1)
    return neighbours * share.own * layer.row_bytes


def ulysses_bytes(layer: LayerShape, share: Share) -> int:
    """What this rank sends to exchange heads for tokens: queries, keys, values, and the output back."""
    return 2 * share.own * layer.row_bytes * (share.size - 1) // share.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The three figures by which traffic is told: nobody can choose the most flattering one.

    Attributes:
        steady: Bytes of one evaluation that uses stale values, all ranks, without the output.
        whole_run: Bytes of a run, all ranks, everything counted: warm-up, outputs, what ranks agree by.
        worst_rank: The most that one rank sends in a run.
    """

    steady: float
    whole_run: int
    worst_rank: int

    @classmethod
    def of(cls, sent_by_rank: Sequence[int], steady_by_rank: Sequence[int], steady_evaluations: int) -> "Figures":
        """From what each rank has sent in a run, and what of it was stale."""
        return cls(
            steady=sum(steady_by_rank) / max(1, steady_evaluations),
            whole_run=sum(sent_by_rank),
            worst_rank=max(sent_by_rank),
        )

    def cut_from(self, other: "Figures") -> tuple[float, float, float]:
        """Shares of the other's three figures that are saved."""
        pairs = ((self.steady, other.steady), (self.whole_run, other.whole_run), (self.worst_rank, other.worst_rank))
        steady, whole, worst = (1 - mine / theirs if theirs else 0.0 for mine, theirs in pairs)
        return steady, whole, worst
