"""One rank of every way of sharing a pipeline, played by one process: what it computes, and what it sends.

:func:`~dit_accel.passes.patch_parallel.groups.pretending` lets a process be a rank without the others. The slowest and
the busiest of the ranks that it plays stand for all.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from dit_accel.api import accelerated
from dit_accel.errors import DitAccelError, UnsupportedModelError
from dit_accel.families.targets import Target, find_targets
from dit_accel.passes.patch_parallel.apply import parallel_of
from dit_accel.passes.patch_parallel.config import PatchParallelConfig
from dit_accel.passes.patch_parallel.groups import pretending
from dit_accel.passes.patch_parallel.guidance import why_not
from dit_accel.passes.patch_parallel.simulate import Evaluation, Operation, operations_of
from dit_accel.session.session import session_of

MEASURED_STEPS = 6  # the first one finds its memory; the last one sends nothing
_TYPICAL = slice(1, MEASURED_STEPS - 1)
_WARMUP = 2
# Where a pipeline calls twice, ranks compute both branches in the first evaluation, so it stands for no other.
_WAITING, _STEADY = 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of sharing, measured.

    Attributes:
        name: For people.
        exact: Whether pictures are those of one process, but for rounding.
        waiting: An evaluation that waits for fresh values.
        steady: One that does not; ``None``: all wait.
        ranks: How many speak with each other about patches.
    """

    name: str
    exact: bool
    waiting: Evaluation
    steady: Evaluation | None = None
    ranks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of one pipeline at one size.

    Attributes:
        ranks: For which the ways are.
        plain_s: Seconds of one evaluation in one process.
        rest_s: Seconds of a run outside the denoiser, which no way shares.
        ways: Those that can be used.
        refused: Those that cannot, with the reason.
    """

    ranks: int
    plain_s: float
    rest_s: float
    ways: tuple[Way, ...]
    refused: dict[str, str] = field(default_factory=dict)


def measure(pipe: Any, run: Callable[[int], object], ranks: int, *, halo: float = 0.3, repeats: int = 1) -> Measured:
    """Play the ranks of every way.

    Args:
        pipe: A pipeline, not accelerated.
        run: Draws one picture in so many steps.
        ranks: How many there will be.
        halo: Of partial patches.
        repeats: Runs of each. The quickest evaluation counts: what slows others down is this machine, not the way.

    Raises:
        UnsupportedModelError: The pipeline has no denoiser that we understand.
    """
    targets = find_targets(pipe)
    if not targets:
        raise UnsupportedModelError("there is no denoiser to share")
    target = targets[0]
    run(2)  # finds its memory
    plain_s, rest_s = _plain(target, run, repeats)
    ways: list[Way] = []
    refused: dict[str, str] = {}
    for name, exact, config in _configs(ranks, halo):
        obstacle = why_not(target, ranks) if config.guidance == "on" else None
        if obstacle is None:
            try:
                ways.append(_played(pipe, target, run, name, exact, config, ranks, repeats))
                continue
            except DitAccelError as error:
                obstacle = str(error)
        refused[name] = obstacle
    _add_sequence(ways, refused, target, ranks)
    return Measured(ranks=ranks, plain_s=plain_s, rest_s=rest_s, ways=tuple(ways), refused=refused)


def _configs(ranks: int, halo: float) -> Iterator[tuple[str, bool, PatchParallelConfig]]:
    modes: tuple[Any, ...] = ("sync", "stale", "partial")
    if ranks == 2:
        yield "guidance", True, PatchParallelConfig(mode="sync", guidance="on", warmup=_WARMUP)
    for mode in modes:
        more = {"mode": mode, "halo": halo, "warmup": _WARMUP}
        if ranks != 2:
            yield f"guidance, then patches, {mode}", mode == "sync", PatchParallelConfig(guidance="on", **more)
        yield f"patches, {mode}", mode == "sync", PatchParallelConfig(guidance="off", **more)


def _played(
    pipe: Any,
    target: Target,
    run: Callable[[int], object],
    name: str,
    exact: bool,
    config: PatchParallelConfig,
    ranks: int,
    repeats: int,
) -> Way:
    slowest, busiest, group = 0.0, -1, 1
    operations: dict[int, tuple[Operation, ...]] = {}
    for rank in sorted({0, min(1, ranks - 1)}):  # the one with the most rows, and one between two others
        with pretending(rank, ranks), accelerated(pipe, config, strict=True):
            seconds: list[float] = []
            for _ in range(repeats):
                with _timed(target, session_clock(pipe)) as steps:
                    run(MEASURED_STEPS)
                seconds += list(steps.values())[_TYPICAL]
            session = session_of(pipe)
            assert session is not None
            parallel = parallel_of(session.runtimes[0])
            assert parallel is not None
            entries = list(parallel.groups.traffic)
            group = ranks // 2 if parallel.guided else ranks
        slowest = max(slowest, min(seconds))
        sent = sum(operation.sent for operation in operations_of(entries, _STEADY, group))
        if sent > busiest:
            busiest, operations = sent, {step: operations_of(entries, step, group) for step in (_WAITING, _STEADY)}
    waiting, steady = (Evaluation(compute_s=slowest, operations=operations[step]) for step in (_WAITING, _STEADY))
    return Way(name=name, exact=exact, waiting=waiting, steady=None if exact else steady, ranks=group)


def _add_sequence(ways: list[Way], refused: dict[str, str], target: Target, ranks: int) -> None:
    """Ulysses, as diffusers' context parallel does it: the rows' computation, and heads exchanged for tokens twice."""
    heads = getattr(target.denoiser, "config", {}).get("num_attention_heads")
    for way in tuple(ways):
        if not way.exact or "patches" not in way.name:
            continue
        name = way.name.replace("patches, sync", "sequence (Ulysses)")
        if getattr(target.denoiser, "_cp_plan", None) is None:
            refused[name] = f"diffusers has no context-parallel plan for {type(target.denoiser).__name__}"
        elif not isinstance(heads, int) or heads % way.ranks:
            refused[name] = f"{heads} heads are not shared evenly by {way.ranks} ranks"
        else:
            exchanged = [part for each in way.waiting.operations for part in _ulysses(each, way.ranks)]
            evaluation = Evaluation(compute_s=way.waiting.compute_s, operations=tuple(exchanged))
            ways.append(Way(name=name, exact=True, waiting=evaluation, ranks=way.ranks))


def _ulysses(gathered: Operation, ranks: int) -> list[Operation]:
    """Queries, keys and values out and the answer back, instead of gathering keys and values."""
    if gathered.layer.endswith("/output"):
        return [gathered]
    both = 2 * gathered.sent // ranks
    parts = (3 * both // 4, both - 3 * both // 4)
    return [
        Operation(layer=f"{gathered.layer}/{which}", sent=sent, hops=ranks - 1, late=False)
        for which, sent in zip(("out", "back"), parts, strict=True)
    ]


def _plain(target: Target, run: Callable[[int], object], repeats: int) -> tuple[float, float]:
    """Seconds of an evaluation, and of everything else in a run."""
    seconds: list[float] = []
    rest: list[float] = []
    for _ in range(repeats):
        with _timed(target, None) as steps:
            began = time.perf_counter()
            run(MEASURED_STEPS)
            whole = time.perf_counter() - began
        calls = list(steps.values())
        each = len(calls) // MEASURED_STEPS or 1
        seconds += [sum(calls[k * each : (k + 1) * each]) for k in range(MEASURED_STEPS)][_TYPICAL]
        rest.append(whole - sum(calls))
    return min(seconds), min(rest)


def session_clock(pipe: Any) -> Any:
    """The clock of an accelerated pipeline."""
    session = session_of(pipe)
    assert session is not None
    return session.runtimes[0].clock


@contextmanager
def _timed(target: Target, clock: Any) -> Iterator[dict[int, float]]:
    """Seconds of the denoiser by evaluation, or, without a clock, by call."""
    found: dict[int, float] = {}
    began: list[float] = []

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def before(*_: Any) -> None:
        began.append(now())

    def after(*_: Any) -> None:
        place = len(found) if clock is None else clock.step
        found[place] = found.get(place, 0.0) + now() - began.pop()

    handles = (target.denoiser.register_forward_pre_hook(before), target.denoiser.register_forward_hook(after))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
