"""The state of one trajectory of one guidance branch: its rows, what it has kept, and whether it still holds."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from dit_accel.runtime.call import Keeper
from dit_accel.runtime.trees import Tree, leaves, map_tree, version, versions
from dit_accel.schedules.lowering import REUSE, STORE, RowSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What tells one denoiser call from another without reading a value.

    Attributes:
        signature: Shape, dtype and device of the latents and of each conditioning tensor.
        conditioning: The conditioning tensors themselves, each with its version counter.
    """

    signature: tuple[Any, ...]
    conditioning: tuple[tuple[torch.Tensor, int], ...]

    @classmethod
    def of(cls, latents: Any, conditioning: Sequence[Any]) -> "Inputs":
        """Describe a call by its latents and its conditioning arguments (absent ones are ``None``)."""
        tensors = [tensor for item in (latents, *conditioning) for tensor in leaves(item)]
        signature = tuple((tuple(t.shape), t.dtype, t.device) for t in tensors)
        return cls(
            signature=signature,
            conditioning=tuple((t, version(t)) for item in conditioning for t in leaves(item)),
        )

    def held(self) -> "Inputs":
        """The same, for later calls to be compared with.

        Inference tensors count no changes, so in inference mode, where alone they can be changed, copies of them are
        kept. A copy is not the very same tensor: it is values that are then compared.
        """
        if not torch.is_inference_mode_enabled():
            return self
        copies = ((t.clone() if t.is_inference() else t, counted) for t, counted in self.conditioning)
        return replace(self, conditioning=tuple(copies))

    def is_given_the_same(self, other: "Inputs") -> bool:
        """Whether both calls are given the very same, unmodified conditioning tensors."""
        return len(self.conditioning) == len(other.conditioning) and all(
            a is b and va == vb for (a, va), (b, vb) in zip(self.conditioning, other.conditioning, strict=True)
        )

    def is_given_equal(self, other: "Inputs") -> bool:
        """Whether both calls are given conditioning of equal values.

        This waits for the device. It is asked only when the tensors are not the same ones: of pipelines that make
        them anew at every step, where no other test is safe.
        """
        return len(self.conditioning) == len(other.conditioning) and all(
            version(a) == va and version(b) == vb and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
            for (a, va), (b, vb) in zip(self.conditioning, other.conditioning, strict=True)
        )


class InputReader:
    """Finds arguments of a denoiser call by name, the latents and the conditioning among them.

    Args:
        denoiser: Its ``forward`` takes the latents first.
        conditioning: Names of the parameters that carry the prompt; those it lacks are left out.
    """

    def __init__(self, denoiser: nn.Module, conditioning: Sequence[str]) -> None:
        self._names = list(inspect.signature(denoiser.forward).parameters)
        self._conditioning = [(self._names.index(name), name) for name in conditioning if name in self._names]

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        def argument(place: int, name: str) -> Any:
            return args[place] if place < len(args) else kwargs.get(name)

        return Inputs.of(argument(0, self._names[0]), [argument(*place) for place in self._conditioning])

    def by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments by name, the latents first."""
        latents = {self._names[0]: args[0] if args else kwargs.get(self._names[0])}
        return {**latents, **dict(zip(self._names, args, strict=False)), **kwargs}


@dataclass(slots=True)
class Track:
    """One run of one branch, from the step at which it had to start computing.

    Attributes:
        rows: What may happen from that step on.
        inputs: What the first call was given, held.
        start: Step of its first call.
        next_step: The only step at which the kept values may be used.
        silent: Sites that this branch does not call.
        state: What the row source keeps.
        slots: Kept output of each site; where a keeper answers a tuple of them, newest first.
        steps: When these were stored, newest first; only where a keeper answers.
        hollows: Zero stand-ins of sites that may be skipped.
        versions: Modification counters of the kept tensors when they were stored.
    """

    rows: RowSet
    inputs: Inputs
    start: int
    next_step: int
    silent: frozenset[str] = frozenset()
    state: Any = None
    slots: list[Tree] = field(default_factory=list)
    steps: dict[int, tuple[int, ...]] = field(default_factory=dict)
    hollows: list[Tree] = field(default_factory=list)
    versions: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slots = [None] * len(self.rows.sites)
        self.hollows = [None] * len(self.rows.sites)

    def fits(self, inputs: Inputs) -> bool:
        """Whether a call with such inputs has the shapes that this track has kept."""
        return self.inputs.signature == inputs.signature

    def tampered(self, actions: Sequence[str]) -> list[int]:
        """Sites to be reused whose kept tensors were modified in place since they were stored."""
        return [
            position
            for position, action in enumerate(actions)
            if action == REUSE and self.versions.get(position) != versions(self.slots[position])
        ]

    def seal(self, actions: Sequence[str]) -> None:
        """Note the versions of what compiled code has just stored; wrappers do it themselves, at once."""
        for position, action in enumerate(actions):
            if action == STORE:
                self.versions[position] = versions(self.slots[position])

    def push(self, position: int, keeper: Keeper, step: int, older: Tree, older_versions: tuple[int, ...]) -> None:
        """Put what was stored at ``step`` in front of the values that were kept before.

        There are always as many as the keeper reads, the oldest several times if need be: a compiled row is made for
        one number of them.
        """
        kept = (self.slots[position], *(older or ()))[: keeper.depth]
        while len(kept) < keeper.depth:  # other objects on the same memory: a compiler guards on what is the same
            kept += (map_tree(torch.Tensor.detach, kept[-1]),)
        self.slots[position] = kept
        self.steps[position] = (step, *self.steps.get(position, ()))[: keeper.depth]
        newest = self.versions.get(position, ())
        noted = (*newest, *older_versions)[: len(newest) * keeper.depth]
        self.versions[position] = noted + noted[-len(newest) :] * (keeper.depth - len(noted) // max(1, len(newest)))

    def free(self, positions: Sequence[int]) -> None:
        """Let go of values that no later step reads."""
        for position in positions:
            self.slots[position] = None
            self.steps.pop(position, None)

    def kept_bytes(self) -> int:
        """Memory of the kept values, bytes; a storage shared by several views counts once."""
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for slot in self.slots
            for tensor in leaves(slot)
        }
        return sum(storages.values())
