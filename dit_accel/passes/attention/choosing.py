"""What passes share that choose their blocks in the running call: which steps and layers act, and the books of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import torch

from dit_accel.families.tokens import TokenGrid
from dit_accel.kernels.block_table import blocks_of_span
from dit_accel.passes.attention.layers import Share, SparseLayers, device_of
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.rules import DenseRules
from dit_accel.runtime.call import Call, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree

CACHED = 16
"""Tables of each kind that are kept for the next run: they take long to make, and depend on nothing that changes."""
_CPU = torch.device("cpu")


class Movable(Protocol):
    """What is on a device."""

    def to(self: "M", device: torch.device, /) -> "M":
        """The same on another one."""
        ...


M = TypeVar("M", bound=Movable)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendedSequence:
    """The sequence that self-attention sees in a run.

    Attributes:
        length: Tokens; ``None``: not known before it comes.
        text: First and one past the last token of text.
        layout: Its frames, rows and columns, where it has them and nothing else.
        device: Where it is computed.
        copies: See :meth:`copy_of`.
    """

    length: int | None = None
    text: tuple[int, int] | None = None
    layout: TokenLayout | None = None
    device: torch.device = _CPU
    copies: dict[int, tuple[Movable, Movable]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, grid: TokenGrid | None) -> "AttendedSequence":
        """That of a run."""
        if grid is None:
            return cls()
        text = grid.text if grid.text is not None and grid.text[1] > grid.text[0] else None
        length = grid.num_tokens + grid.reference + (text[1] - text[0] if text else 0)
        return cls(length=length, text=text, layout=TokenLayout.of(grid))

    def on(self, device: torch.device) -> "AttendedSequence":
        """The same on a device; itself if it is there."""
        return self if self.device == device else replace(self, device=device, copies={})

    def copy_of(self, shared: M) -> M:
        """On its device what many layers have: one copy for all of them."""
        _, found = self.copies.setdefault(id(shared), (shared, shared.to(self.device)))
        return found  # type: ignore[return-value]

    def text_blocks(self, block: int) -> range:
        """Blocks with text in them."""
        return blocks_of_span(*self.text, block) if self.text is not None else range(0)


class Chooses(Protocol):
    """Attention of one layer that finds its blocks by itself."""

    def begin(self, sequence: AttendedSequence) -> None:
        """Of a run, the first call that is not dense is about to come."""
        ...

    def left_out(self, sequence: AttendedSequence) -> Share:
        """Share of the scores that it leaves out, as far as that is known beforehand."""
        ...

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None, /) -> torch.Tensor:
        """[B, N, H, D]."""
        ...


class Choosing:
    """Stands around every call of one denoiser: dense in the first steps, and then each layer for itself.

    Args:
        runtime: Of the denoiser.
        config: The pass's.
        needs_layout: Whether it wants to know frames, rows and columns.
    """

    def __init__(self, runtime: DenoiserRuntime, config: DenseRules, *, needs_layout: bool = False) -> None:
        self.config = config
        self.needs_layout = needs_layout
        self.sparse = SparseLayers(runtime, by=config.type_name)
        self.attends: list[Chooses | None] = [None] * len(self.sparse.layers)
        self.sequence = AttendedSequence()
        self._begun = False

    def acting(self) -> Sequence[int]:
        """Numbers of the layers that are not dense."""
        return range(min(self.config.dense_layers, len(self.attends)), len(self.attends))

    def begin(self, run: Run) -> None:
        """A run begins."""
        self.sequence = AttendedSequence.of(run.grid)
        self.sparse.begin(length=self.sequence.length, dense_because=self.why_dense())
        self._begun = False

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Whole, or by what the layers choose."""
        if self.sparse.dense_because is not None or call.step < self.config.dense_steps(call.run.num_steps):
            nothing = [0.0] * len(self.attends)
            return self.sparse.compute(call, inner, [None] * len(self.attends), nothing)
        if not self._begun:  # here the device is known, and no graph has begun
            self._begun, self.sequence = True, self.sequence.on(device_of(call))
            for attend in self.attends:
                if attend is not None:
                    attend.begin(self.sequence)
        return self.sparse.compute(call, inner, self.attends, self._shares)

    def planned(self, num_steps: int) -> float:
        """Share of all self-attention scores of a run that is not computed."""
        acting = max(0, num_steps - self.config.dense_steps(num_steps))
        return float(sum(self._shares())) * acting / (num_steps * max(1, len(self.attends)))

    def why_dense(self) -> str | None:
        """In a sentence, why this run is dense."""
        dense = f"'{self.config.type_name}' leaves '{self.sparse.runtime.name}' dense:"
        length = self.sequence.length
        if self.needs_layout and self.sequence.layout is None:
            return f"{dense} the frames, rows and columns of its tokens cannot be told from its call"
        if length is not None and length < self.config.min_tokens:
            return f"{dense} {length} tokens are fewer than min_tokens = {self.config.min_tokens}"
        return None

    def _shares(self) -> list[Share]:
        return [0.0 if attend is None else attend.left_out(self.sequence) for attend in self.attends]
