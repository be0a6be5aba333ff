"""VMoBA (Wu et al., arXiv 2506.23858): every query reads the boxes of the video whose mean keys are most like it.

Boxes are whole frames in one layer, columns through all frames in the next, and pieces of both in the third; so it
goes on. A query always reads its own box. Made for training with it; without, the paper lets each query keep the best
few (top-k), since one threshold for all of a head flickers, and that is the default here.

Departures: boxes need not divide the grid, those at its ends are smaller; nothing is moved into the order of boxes,
rows are found by their numbers; text is a box that everybody reads, and reads everything; the border of a pool that
queries share is found by counting, not by sorting, see :mod:`dit_accel.kernels.gather_select`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dit_accel.errors import ConfigError
from dit_accel.kernels.gather_attention import gather_attention
from dit_accel.kernels.gather_pairs import KeyBlocks
from dit_accel.kernels.gather_select import Pool, choose_best, choose_share, gates
from dit_accel.passes.attention.choosing import AttendedSequence, Choosing
from dit_accel.passes.attention.layers import DEFAULT_STEPS, no_attention
from dit_accel.passes.attention.partitions import boxes_of, key_blocks
from dit_accel.passes.attention.routing import SCORES
from dit_accel.passes.attention.rules import DenseRules
from dit_accel.passes.base import Pass, register_pass
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime

NAME = "vmoba"
KINDS = ("temporal", "spatial", "spatiotemporal")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VMoBAConfig(DenseRules):
    """Let every query read the boxes of the video whose mean keys are most like it.

    Args:
        density: Share of the boxes that a query keeps, at least its own.
        threshold: tau, instead of ``density``: keep the best up to this share of the pool's scores.
        pool: Whether each ``"query"`` has a share of its own (local), or all of a ``"head"`` have one (global).
        cycle: Which kinds of boxes layers take in turn; ``("temporal",)`` alone is MoBA, whose blocks are pieces of
            the sequence.
        temporal: Frames of a box in layers 0, 3, ...; ``None``: for 7 boxes.
        spatial: Rows and columns of a box in layers 1, 4, ...; ``None``: for 6 x 4 boxes.
        spatiotemporal: Frames, rows and columns of a box in layers 2, 5, ...; ``None``: for 3 x 6 x 4 boxes.
        dense_steps_frac: Share of the steps that are dense; a quarter of them in the paper.

    Raises:
        ConfigError: A value out of range.
    """

    type_name: ClassVar[str] = NAME

    density: float = 0.25
    threshold: float | None = None
    pool: Pool = "query"
    cycle: tuple[str, ...] = KINDS
    temporal: int | None = None
    spatial: tuple[int, int] | None = None
    spatiotemporal: tuple[int, int, int] | None = None
    dense_steps_frac: float = 0.25

    def __post_init__(self) -> None:
        self.check_rules()
        for name, share in (("density", self.density), ("threshold", self.threshold)):
            if share is not None and (not isinstance(share, int | float) or not 0 < share <= 1):
                raise ConfigError(f"'{NAME}': {name} must be a number in (0, 1], got {share!r}")
        if self.pool not in ("query", "head"):
            raise ConfigError(f"'{NAME}': pool must be query or head, got {self.pool!r}")
        object.__setattr__(self, "cycle", tuple(self.cycle))
        if not self.cycle or not set(self.cycle) <= set(KINDS):
            raise ConfigError(f"'{NAME}': cycle must be some of {', '.join(KINDS)}, got {self.cycle}")
        for name, axes in (("spatial", 2), ("spatiotemporal", 3)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
                if len(getattr(self, name)) != axes:
                    raise ConfigError(f"'{NAME}': {name} must be {axes} numbers, got {getattr(self, name)}")
        sizes = (self.temporal, *(self.spatial or ()), *(self.spatiotemporal or ()))
        if any(size is not None and (not isinstance(size, int) or size < 1) for size in sizes):
            raise ConfigError(f"'{NAME}': boxes must be whole numbers of tokens of at least 1, got {sizes}")

    def kept(self, boxes: int) -> int:
        """How many of so many boxes a query keeps, its own among them."""
        return min(boxes, max(1, round(self.density * boxes)))


class BoxedAttention:
    """Attention of one layer over the boxes that its queries choose.

    Args:
        config: The pass's.
        kind: Which of the three partitions it has.

    Attributes:
        blocks: The boxes of the run.
        text: First and one past the last token of text, which is the last box then; ``None``: there is none.
    """

    def __init__(self, config: VMoBAConfig, kind: int) -> None:
        self.config = config
        self.kind = kind
        self.blocks: KeyBlocks | None = None
        self.text: tuple[int, int] | None = None
        self._read: Tensor | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """[B, N, H, D]."""
        assert self.blocks is not None
        chosen = self.choose(q, k, self.blocks)
        # Counted, since boxes are of different sizes; not waited for.
        readers = chosen.sum(-1).to(torch.float32).mean((0, 1))
        self._read = (readers * self.blocks.starts.diff()).sum() / q.shape[1] ** 2
        out: Tensor = gather_attention(
            q, k, v, chosen, self.blocks, scale=scale, capacity=self._capacity(q.shape[1]), lse=False
        )
        return out

    @torch.no_grad()
    def choose(self, q: Tensor, k: Tensor, blocks: KeyBlocks) -> Tensor:
        """bool [B, H, C, N]."""
        boxes = len(blocks.sizes) - (self.text is not None)
        gate = gates(q, k, blocks)[:, :, :boxes]
        # Text is in none of the boxes, so it takes part in no pool but that of all of a head; it reads all anyway.
        own = blocks.own.masked_fill(blocks.own >= boxes, -1)
        config = self.config
        if config.threshold is None:
            chosen = choose_best(gate, own, config.kept(boxes), config.pool)
        else:
            chosen = choose_share(gate, own, config.threshold, config.pool)
        if self.text is None:
            return chosen
        chosen = torch.cat([chosen, torch.ones_like(chosen[:, :, :1])], 2)
        chosen[..., self.text[0] : self.text[1]] = True
        return chosen

    def begin(self, sequence: AttendedSequence) -> None:
        """A run begins: cut its tokens into boxes."""
        assert sequence.layout is not None
        config = self.config
        boxes = boxes_of(sequence.layout.size, config.temporal, config.spatial, config.spatiotemporal)
        self.text = sequence.layout.text
        self.blocks = sequence.copy_of(key_blocks(sequence.layout, boxes[self.kind]))
        self._read = None

    def left_out(self, sequence: AttendedSequence) -> float | Tensor:
        """By what was chosen; before the first call as far as that is known."""
        if self._read is not None:
            return 1 - self._read
        if self.config.threshold is not None:
            return 1 - self.config.threshold
        if self.blocks is None:
            return 1 - self.config.density
        boxes = len(self.blocks.sizes) - (self.text is not None)
        text = 0 if self.text is None else self.text[1] - self.text[0]
        others = len(self.blocks.own) - text
        return others**2 * (1 - self.config.kept(boxes) / boxes) / len(self.blocks.own) ** 2

    def _capacity(self, length: int) -> int:
        """Pairs of a head at most; 0: nobody knows."""
        assert self.blocks is not None
        if self.config.threshold is not None:
            return 0
        boxes, text = len(self.blocks.sizes), 0
        if self.text is not None:
            boxes, text = boxes - 1, self.text[1] - self.text[0]
        return length * self.config.kept(boxes) + (length + text * boxes if text else 0)


def apply_vmoba(runtime: DenoiserRuntime, config: VMoBAConfig) -> None:
    """Give every self-attention of one denoiser a route over boxes, of the three kinds in turn."""
    passing = Choosing(runtime, config, needs_layout=True)
    for turn, number in enumerate(passing.acting()):
        passing.attends[number] = BoxedAttention(config, KINDS.index(config.cycle[turn % len(config.cycle)]))
    runtime.each_run(passing.begin, by=NAME)
    runtime.around(passing, order=100, by=NAME)


def effect_of_vmoba(runtime: DenoiserRuntime, config: VMoBAConfig) -> Effect:
    """Share of the self-attention scores that were not computed; by a threshold, a guess before the first run."""
    passing = runtime.around_of(NAME)
    assert isinstance(passing, Choosing)
    return passing.sparse.effect(passing.planned(runtime.stats.num_steps if runtime.stats.calls else DEFAULT_STEPS))


register_pass(
    Pass(
        config=VMoBAConfig,
        summary="lets every query read the boxes of the video whose mean keys are most like it",
        phase="modules",
        claims=frozenset((SCORES,)),
        obstacles=lambda target, config: no_attention(target),
        example=VMoBAConfig,
        apply=apply_vmoba,
        effect=effect_of_vmoba,
    )
)
