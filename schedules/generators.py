"""Schedules by rule: the published heuristics, each with its source, and custom ones."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dit_accel.schedules.graph import SiteGraph, SiteInfo
from dit_accel.schedules.schedule import Schedule, ScheduleError
from dit_accel.schedules.spacing import crowded

# Kinds of the leaf modules that feature caches keep; projections of text and norms are left to the lowering.
ATTENTION_KINDS = ("self_attn", "cross_attn", "joint_attn", "single_attn")
LEAF_KINDS = (*ATTENTION_KINDS, "ff", "ff_context", "proj_mlp", "proj_out")

Generator = Callable[..., Schedule]
GENERATORS: dict[str, Generator] = {}


@dataclass(frozen=True)
class GeneratorSpec:
    """A generator by name with its parameters: a schedule for any step count.

    Raises:
        ScheduleError: No such generator, or it has no such parameter; the nearest known name is given.
    """

    name: str
    params: Mapping[str, Any]

    def __init__(self, name: str, params: Mapping[str, Any] | None = None, **more: Any) -> None:
        if name not in GENERATORS:
            raise ScheduleError(f"unknown schedule generator '{name}'.{_nearest(name, GENERATORS)}")
        chosen = {**(params or {}), **more}
        parameters = inspect.signature(GENERATORS[name]).parameters
        known = [parameter for parameter in parameters if parameter not in ("graph", "num_steps")]
        for key in chosen:
            if key not in known:
                raise ScheduleError(
                    f"generator '{name}' has no parameter '{key}'.{_nearest(key, known)} It has: {', '.join(known)}."
                )
        missing = [key for key in known if parameters[key].default is inspect.Parameter.empty and key not in chosen]
        if missing:
            raise ScheduleError(f"generator '{name}' needs '{missing[0]}'; it has: {', '.join(known)}")
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in chosen.items()}
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "params", plain)

    def __hash__(self) -> int:
        return hash((self.name, repr(sorted(self.params.items()))))

    def build(self, graph: SiteGraph, num_steps: int) -> Schedule:
        """The schedule for ``num_steps`` denoiser evaluations of a model with these sites."""
        return GENERATORS[self.name](graph, num_steps, **self.params)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"generator": self.name, "params": dict(self.params)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GeneratorSpec":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ScheduleError: A key is unknown, or a value is of the wrong type.
        """
        if not {"generator"} <= set(data) <= {"generator", "params"}:
            raise ScheduleError(f"a generated schedule has the keys 'generator' and 'params', got {sorted(data)}")
        name, params = data["generator"], data.get("params") or {}
        if not isinstance(name, str) or not isinstance(params, Mapping):
            raise ScheduleError("'generator' is a name and 'params' a table of its parameters")
        return cls(name, params)


def generator(function: Generator) -> Generator:
    """Register a function ``(graph, num_steps, *, ...) -> Schedule`` under its own name."""
    GENERATORS[function.__name__] = function
    return function


@generator
def every_n(graph: SiteGraph, num_steps: int, *, n: int = 2, kinds: Sequence[str] = LEAF_KINDS) -> Schedule:
    """Recompute at steps 0, n, 2n, ...; reuse between (FORA, Selvaraju et al., 2407.01425).

    Steps count up, as in ECAD's version; FORA's own code counts down and so refreshes at other phases.
    """
    at_least("n", n, 1)
    return _rows(num_steps, _of_kinds(graph, kinds), lambda step: step % n == 0)


@generator
def front_loaded(
    graph: SiteGraph, num_steps: int, *, n: int = 2, power: float = 1.5, kinds: Sequence[str] = LEAF_KINDS
) -> Schedule:
    """As many full steps as :func:`every_n`, crowded towards the start or the end.

    Full step ``i`` of K = ceil(T / n) is ``round(T * (i / K) ** power)``, moved where two would coincide or the end
    be passed. Which power is best depends on the model: on emoji-pixart half-way through its training 1.5 was closer
    to the plain run than 1, by 1.7 dB for n = 3, and when it was finished 1 was the best. Search, do not guess.

    Args:
        n: One full step in n.
        power: 1 is even spacing; above 1, full steps crowd at the start; below 1, at the end.
    """
    at_least("n", n, 1)
    chosen = frozenset(crowded(num_steps, -(-num_steps // n), power))
    return _rows(num_steps, _of_kinds(graph, kinds), lambda step: step in chosen)


@generator
def t_gate(
    graph: SiteGraph, num_steps: int, *, gate: int = 10, sp_interval: int = 5, fi_interval: int = 1, warmup: int = 2
) -> Schedule:
    """Cross-attention is kept from step ``gate`` on; self-attention is thinned out (T-GATE, Liu et al., 2404.02747).

    As in ECAD's variant the two guidance halves are kept as they are (the original averages them and then drops
    guidance), so the result differs from the paper's.

    Args:
        gate: Cross-attention is last computed at step ``gate - 1``.
        sp_interval: Self-attention is computed every so many steps after ``warmup`` and before ``gate``.
        fi_interval: The same from ``gate`` on.
        warmup: Self-attention is computed at every step up to this one.
    """
    for name, value in (("gate", gate), ("sp_interval", sp_interval), ("fi_interval", fi_interval)):
        at_least(name, value, 1)

    def self_attention(step: int) -> bool:
        return step <= warmup or step % (sp_interval if step < gate else fi_interval) == 0

    cross = _rows(num_steps, graph.select(kinds=("cross_attn",)), lambda step: step < gate)
    return cross.merged(_rows(num_steps, graph.select(kinds=("self_attn",)), self_attention))


@generator
def evenly_spaced(
    graph: SiteGraph, num_steps: int, *, num_blocks: int, num_reused: int, kinds: Sequence[str] = LEAF_KINDS
) -> Schedule:
    """Reuse in ``num_blocks`` blocks spread evenly over the depth, at ``num_reused`` steps spread around the middle.

    The third kind of seed in ECAD's initial population (2506.15682, shipped schedules).
    """
    at_least("num_blocks", num_blocks, 1)
    at_least("num_reused", num_reused, 0)
    blocks = {round(x) for x in _spread(0, graph.num_blocks - 1, min(num_blocks, graph.num_blocks))}
    reused = {round(x) for x in _spread(1, num_steps - 1, min(num_reused, num_steps - 1))}
    chosen = [site for site in _of_kinds(graph, kinds) if site.block in blocks]
    return _rows(num_steps, chosen, lambda step: step not in reused)


@generator
def block_range(graph: SiteGraph, num_steps: int, *, n: int = 2, first: int = 1, last: int = -2) -> Schedule:
    """Whole blocks ``first``..``last`` keep what they add to the residual stream (Delta-DiT, Chen et al., 2406.01125).

    Negative numbers count from the last block.
    """
    at_least("n", n, 1)
    low, high = (x % graph.num_blocks if x < 0 else x for x in (first, last))
    chosen = [site for site in graph.select(kinds=("block",)) if site.block is not None and low <= site.block <= high]
    return _rows(num_steps, chosen, lambda step: step % n == 0)


@generator
def model_output(graph: SiteGraph, num_steps: int, *, n: int = 2) -> Schedule:
    """The whole denoiser runs every n-th step; its last output serves between. The crudest cache: a lower bound."""
    at_least("n", n, 1)
    return _rows(num_steps, graph.select("model"), lambda step: step % n == 0)


@generator
def custom(graph: SiteGraph, num_steps: int, *, reuse: Mapping[str, Sequence[int]]) -> Schedule:
    """Reuse given sites at given steps: ``{"blocks.*.ff": [2, 3, 5]}``. Patterns are shell-style.

    Raises:
        ScheduleError: A pattern matches no site, or a step is outside the run.
    """
    schedule = Schedule(num_steps, {})
    for pattern, steps in reuse.items():
        chosen = graph.select(pattern)
        if not chosen:
            raise ScheduleError(f"no site matches '{pattern}'; kinds: {', '.join(graph.kinds)}")
        outside = [step for step in steps if not 0 < step < num_steps]
        if outside:
            raise ScheduleError(f"'{pattern}': step {outside[0]} cannot be reused in a run of {num_steps} steps")
        reused = frozenset(steps)
        schedule = schedule.merged(_rows(num_steps, chosen, lambda step: step not in reused))  # noqa: B023 (called now)
    return schedule


def invariants(graph: SiteGraph, num_steps: int) -> Schedule:
    """Compute once what does not depend on the step: text projections. Bit-equal to recomputing them."""
    chosen = [site for site in graph.schedulable if site.invariant]
    return _rows(num_steps, chosen, lambda step: step == 0)


def _rows(num_steps: int, sites: Sequence[SiteInfo], recomputes: Callable[[int], bool]) -> Schedule:
    bits = [recomputes(step) for step in range(num_steps)]
    return Schedule(num_steps, {site.id: bits for site in sites})


def _spread(low: int, high: int, count: int) -> list[float]:
    """``count`` points, evenly spaced and centred in [low, high]."""
    width = (high - low + 1) / max(count, 1)
    return [low + width * (i + 0.5) - 0.5 for i in range(count)]


def _of_kinds(graph: SiteGraph, kinds: Sequence[str]) -> tuple[SiteInfo, ...]:
    chosen = graph.select(kinds=kinds)
    if not chosen:
        raise ScheduleError(f"no site of kind '{', '.join(kinds)}'; this model has {', '.join(graph.kinds)}")
    return chosen


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a parameter that is no whole number of this size."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ScheduleError(f"'{name}' must be a whole number, got {value!r}")
    if value < least:
        raise ScheduleError(f"'{name}' must be at least {least}, got {value}")


def _nearest(word: str, known: Any) -> str:
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[close[0]]}'?" if close else ""
