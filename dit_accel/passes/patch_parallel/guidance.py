"""Classifier-free guidance on two halves of the ranks: each computes one branch, then they tell each other.

Nothing is approximated, and one output of the denoiser is all that is sent in an evaluation, so it is the first thing
that several ranks should do. Where a pipeline puts both branches into one batch, the batch is cut. Where it calls the
denoiser twice, the first call of an evaluation computes both branches, one on each half, and the second one is
answered: what it will be given is known from the evaluation before, and compared when it comes.
"""

from collections.abc import Callable
from typing import Any

import torch

from dit_accel.families.targets import Target
from dit_accel.passes.patch_parallel.comm import Comm
from dit_accel.passes.trajectory.branches import BOTH, CONDITIONAL, UNCONDITIONAL, branch_of
from dit_accel.passes.trajectory.halves import compute_half, half_of_batch
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree, leaves, map_tree

Compute = Callable[[Call, Inner, Any], Tree]  # the last: a key for the branch that is computed
Named = dict[str, Any]


def why_not(target: Target, size: int) -> str | None:
    """Why guidance cannot be split over so many ranks; ``None``: it can, in runs that are guided."""
    if size % 2:
        return f"{size} ranks have no two equal halves"
    if target.family.guidance not in ("batched", "two_calls"):
        return f"of the family '{target.family.name}' guidance is {target.family.guidance}"
    return None


class GuidanceSplit:
    """One denoiser whose guidance branches are on two halves of the ranks.

    Args:
        runtime: Of the denoiser.
        pair: To the rank that computes the other branch.
        compute: Computes a call, patches and all.
    """

    def __init__(self, runtime: DenoiserRuntime, pair: Comm, compute: Compute) -> None:
        self.runtime = runtime
        self.pair = pair
        self.compute = compute
        self._seen: dict[Any, Named] = {}
        self._waiting: tuple[int, Named, Tree] | None = None

    def begin(self) -> None:
        """A run begins."""
        self._seen.clear()
        self._waiting = None

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Compute one call, or answer it."""
        if self.runtime.target.family.guidance == "batched":
            return self._half(call, inner)
        return self._first_or_second(call, inner)

    def _half(self, call: Call, inner: Inner) -> Tree:
        target = self.runtime.target
        names = list(self.runtime.inputs.by_name(call.args, {}))
        if branch_of(call, target, self.runtime.clock.owner) != BOTH:
            return self.compute(call, inner, call.branch)
        arguments = half_of_batch(call, names, target.family.conditioning, self.pair.rank)
        if isinstance(arguments, str):
            self.runtime.warn(f"the branches of '{self.runtime.name}' are not split: {arguments}")
            return self.compute(call, inner, call.branch)
        own = compute_half(call, lambda halved: self.compute(halved, inner, call.branch), arguments)
        halves = self._told(call, own)
        return _joined(halves)

    def _first_or_second(self, call: Call, inner: Inner) -> Tree:
        given = self.runtime.inputs.by_name(call.args, call.kwargs)
        waiting, self._waiting = self._waiting, None
        if call.branch == UNCONDITIONAL and waiting is not None:
            step, expected, answer = waiting
            if step == call.step and _same(given, expected):
                return answer
        if call.branch == CONDITIONAL:
            other = self._expected(given)
            if other is not None:
                return self._both(call, inner, given, other)
        if call.branch in (CONDITIONAL, UNCONDITIONAL):
            self._seen[call.branch] = given
        return self.compute(call, inner, call.branch)

    def _expected(self, given: Named) -> Named | None:
        """What the second call of this evaluation will be given; ``None``: it is not known."""
        first, second = self._seen.get(CONDITIONAL), self._seen.get(UNCONDITIONAL)
        if first is None or second is None or first.keys() != second.keys() or given.keys() != first.keys():
            return None
        apart = [name for name in first if not _is(first[name], second[name])]
        if next(iter(first)) in apart or not _same({n: given[n] for n in apart}, {n: first[n] for n in apart}):
            return None
        return {**given, **{name: second[name] for name in apart}}

    def _both(self, call: Call, inner: Inner, given: Named, expected: Named) -> Tree:
        mine = (given, expected)[self.pair.rank]
        names = list(self.runtime.inputs.by_name(call.args, {}))
        args = tuple(mine[name] for name in names[: len(call.args)])
        arguments = args, {name: mine[name] for name in call.kwargs}
        key = (CONDITIONAL, UNCONDITIONAL)[self.pair.rank]
        own = compute_half(call, lambda other: self.compute(other, inner, key), arguments)
        conditional, unconditional = self._told(call, own)
        self._waiting = (call.step, expected, unconditional)
        return conditional

    def _told(self, call: Call, own: Tree) -> list[Tree]:
        """What both halves have computed."""
        self.pair.step, self.pair.phase = call.step, "guidance"
        both: list[list[torch.Tensor]] = []
        for tensor in leaves(own):
            both.append(self.pair.all_gather("output", tensor, [tuple(tensor.shape)] * 2).take())
        trees = []
        for which in range(2):
            parts = iter([pair[which] for pair in both])
            trees.append(map_tree(lambda _, parts=parts: next(parts), own))  # type: ignore[misc]
        return trees


def _joined(halves: list[Tree]) -> Tree:
    others = iter(leaves(halves[1]))
    return map_tree(lambda first: torch.cat([first, next(others)]), halves[0])


def _is(a: Any, b: Any) -> bool:
    """Whether two arguments are one, without reading a value of a tensor."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return a is b
    mine, theirs = leaves(a), leaves(b)
    if mine or theirs:
        return len(mine) == len(theirs) and all(x is y for x, y in zip(mine, theirs, strict=True))
    return bool(a is b or a == b)


def _same(given: Named, expected: Named) -> bool:
    return given.keys() == expected.keys() and all(_is(given[name], expected[name]) for name in given)
