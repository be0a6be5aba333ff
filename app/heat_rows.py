"""What a plan does at every step, site by site, read from its file: the rows of the heat map. Without torch.

What the file does not say by itself, :mod:`.layouts` finds in the model's layout, once torch is there: the sites that
a rule leads to, and the share of attention that is computed.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dit_accel.schedules import GeneratorSpec, Schedule, ScheduleError, SiteGraph, invariants, resample
from dit_accel.schedules.theory import typical_steps
from dit_accel.schedules.unet_generators import published_key_steps, scaled_steps

COMPUTED, REUSED, FORECAST, ANSWERED, SPARSE = "computed", "reused", "forecast", "answered", "sparse"
WHOLE = "whole denoiser"
BRANCHES = ("conditional branch", "unconditional branch")
WHILE_IT_RUNS = ("teacache", "first_block_cache")
MAX_HEADER_BYTES = 2**24
# Of a block in the name of a site, or those of several that were put together.
NUMBER = re.compile(r"(?<=\.)(?:\d+|\{[\d,-]+\}|\d+-\d+)(?=\.|,|$)")

Bits = tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatRow:
    """One row.

    Attributes:
        name: A site, several alike, or the whole denoiser.
        cells: A state for each step.
        shares: Of attention: for each step the share of its scores that is computed; empty: no attention.
    """

    name: str
    cells: tuple[str, ...]
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a plan's file does not say.

    Attributes:
        num_steps: Of the run.
        shapes: Of the plan's tensors, by their names in the file.
        graph: Sites of the model; ``None``: not read.
        attention: For each attention site the share of its scores that each step computes.
    """

    num_steps: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    graph: SiteGraph | None = None
    attention: Mapping[str, Sequence[float]] = field(default_factory=dict)


def rows_of_passes(
    passes: Sequence[Mapping[str, Any]], known: Known | None = None
) -> tuple[tuple[HeatRow, ...], tuple[str, ...]]:
    """The rows of a plan's passes as they stand in its file, and what is to be said beside them."""
    known = known or Known()
    said: list[str] = []
    by_type = {str(config.get("type")): config for config in passes}
    trajectory, cache = by_type.get("trajectory"), by_type.get("static_cache")
    runs = _computed(trajectory, known) if trajectory else ()
    rows = _trajectory_rows(trajectory, runs, known, said) if trajectory else []
    if cache is not None:
        rows += _cache_rows(cache, runs, known, said)
    if "encoder_propagation" in by_type:
        rows += _encoder_rows(by_type["encoder_propagation"], known)
    rows += _attention_rows(by_type, runs, known, said)
    drawn = {"trajectory", "static_cache", "encoder_propagation", "paro_attention", "sparse_d"}
    for kind in by_type:
        if kind in WHILE_IT_RUNS:
            said.append(f"'{kind}' decides at every step while it runs, so it has no map")
        elif kind not in drawn:
            said.append(f"'{kind}' does not decide by step and site, so it is not in this map")
    return grouped(rows), tuple(said)


def _computed(config: Mapping[str, Any], known: Known) -> Bits:
    """For each evaluation whether the denoiser is computed; empty where the number of steps is not known."""
    bits = config.get("computed")
    if isinstance(bits, str):
        return tuple(bit == "1" for bit in bits)
    if not known.num_steps:
        return ()
    speedup = float(config.get("speedup") or 1.0)
    chosen = typical_steps(known.num_steps, max(1, round(known.num_steps / speedup)))
    return tuple(step in chosen for step in range(known.num_steps))


def _trajectory_rows(config: Mapping[str, Any], runs: Bits, known: Known, said: list[str]) -> list[HeatRow]:
    whole = tuple(COMPUTED if each else ANSWERED for each in runs)
    conditional = config.get("conditional") or ""
    apart = "trajectory/unconditional" in known.shapes
    if config.get("guarded"):
        said.append("Guarded: where an output is further from its forecast than the plan allows, more is computed.")
    if not isinstance(config.get("computed"), str):
        said.append("Chosen and answered by theory; the plan holds no weights that were fitted to this model.")
    if not apart:
        return [HeatRow(name=WHOLE, cells=whole)] if whole else []
    said.append("The two guidance branches are answered by weights of their own.")
    half = tuple(COMPUTED if bit == "1" else cell for bit, cell in zip(conditional, whole, strict=False)) or whole
    return [HeatRow(name=f"{WHOLE}, {name}", cells=cells) for name, cells in zip(BRANCHES, (half, whole), strict=True)]


def _cache_rows(config: Mapping[str, Any], runs: Bits, known: Known, said: list[str]) -> list[HeatRow]:
    try:
        schedule = _schedule(config, len(runs) or known.num_steps, known.graph)
    except ScheduleError as error:
        said.append(str(error))
        return []
    if schedule is None:
        said.append(f"{_rule_words(config)}: which sites that are is read from the model once it is loaded")
        return []
    rows = []
    for site, bits in schedule.recompute.items():
        kept = FORECAST if len(known.shapes.get(f"static_cache/{site}.scale", ())) == 3 else REUSED
        cells = tuple(COMPUTED if bit else kept for bit in bits)
        rows.append(HeatRow(name=site, cells=_under(runs, cells) if len(runs) == len(cells) else cells))
    if known.graph is not None:
        others = _untouched(known.graph, schedule)
        rest = f" {others} more modules are computed whenever the denoiser is." if others else ""
        said.append(f"{_rule_words(config)}.{rest}")
    return rows


def _untouched(graph: SiteGraph, schedule: Schedule) -> int:
    """How many of the innermost sites lie in nothing that the schedule names."""
    above = {site.id: site.parent for site in graph}

    def named(site: str | None) -> bool:
        return site is not None and (site in schedule.recompute or named(above[site]))

    return sum(not named(site.id) and site.id not in above.values() for site in graph.schedulable)


def _schedule(config: Mapping[str, Any], num_steps: int, graph: SiteGraph | None) -> Schedule | None:
    data = config.get("schedule", {})
    if "generator" not in data:
        fixed = Schedule.from_dict(data)
        made = resample(fixed, num_steps) if num_steps and num_steps != fixed.num_steps else fixed
    elif graph is None or not num_steps:
        return None
    else:
        made = GeneratorSpec.from_dict(data).build(graph, num_steps)
    if graph is None or not config.get("invariants", True):
        return made
    return made.merged(invariants(graph, made.num_steps))


def _rule_words(config: Mapping[str, Any]) -> str:
    data = config.get("schedule", {})
    if "generator" not in data:
        return "A schedule of its own"
    params = ", ".join(f"{name} = {value}" for name, value in (data.get("params") or {}).items() if name != "reuse")
    return f"By the rule '{data['generator']}'" + (f" ({params})" if params else "")


def _under(runs: Bits, cells: Sequence[str]) -> tuple[str, ...]:
    """What a site does under a trajectory: a recompute at an answered step happens at the next computed one."""
    found, due = [], False
    for computed, cell in zip(runs, cells, strict=True):
        due = due or cell == COMPUTED
        if not computed:
            found.append(ANSWERED)
            continue
        found.append(COMPUTED if due else cell)
        due = False
    return tuple(found)


def _encoder_rows(config: Mapping[str, Any], known: Known) -> list[HeatRow]:
    steps = known.num_steps
    every, keys, made_for = config.get("every"), config.get("key_steps"), config.get("num_steps")
    if not steps:
        return []
    if every:
        chosen: Sequence[int] = range(0, steps, every)
    elif keys is None:
        chosen = published_key_steps(steps)
    else:
        chosen = scaled_steps(keys, made_for, steps) if made_for else keys
    encoder = tuple(COMPUTED if step in chosen else REUSED for step in range(steps))
    return [HeatRow(name="encoder", cells=encoder), HeatRow(name="decoder", cells=(COMPUTED,) * steps)]


def _attention_rows(
    by_type: Mapping[str, Mapping[str, Any]], runs: Bits, known: Known, said: list[str]
) -> list[HeatRow]:
    kinds = [kind for kind in ("paro_attention", "sparse_d") if kind in by_type]
    if kinds and not known.attention:
        config = by_type[kinds[0]]
        density = f" ({config['density']:.0%} of the scores are computed)" if "density" in config else ""
        said.append(f"'{kinds[0]}' makes attention sparse{density}: its map is drawn once the model is read")
    rows = []
    for site, shares in known.attention.items():
        cells = tuple(COMPUTED if share >= 1 else SPARSE for share in shares)
        if len(runs) == len(cells):
            cells = tuple(cell if each else ANSWERED for cell, each in zip(cells, runs, strict=True))
        rows.append(HeatRow(name=f"{site}, attention", cells=cells, shares=tuple(round(each, 4) for each in shares)))
    fewest = max((by_type[kind].get("min_tokens") or 0 for kind in kinds), default=0)
    if rows and fewest:
        said.append(f"Sequences of fewer than {fewest} tokens keep their whole attention.")
    if rows and "sparse_d" in by_type:
        said.append("Which blocks of attention those are is seen anew in each run, at the last step that is dense.")
    return rows


def grouped(rows: Sequence[HeatRow]) -> tuple[HeatRow, ...]:
    """Rows of sites that do the same and differ by one number in their names as one: ``blocks.0-27.ff``."""
    found = list(rows)
    for place in range(max((len(NUMBER.findall(row.name)) for row in rows), default=0)):
        groups: dict[tuple[Any, ...], list[tuple[str, HeatRow]]] = {}
        for row in found:
            match = next(itertools.islice(NUMBER.finditer(row.name), place, None), None)
            around = (row.name,) if match is None else (row.name[: match.start()], row.name[match.end() :])
            key = around, row.cells, row.shares
            groups.setdefault(key, []).append(("" if match is None else match.group(), row))
        found = [_merged(key[0], members) for key, members in groups.items()]
    return tuple(found)


def _merged(around: tuple[str, ...], members: Sequence[tuple[str, HeatRow]]) -> HeatRow:
    numbers = [number for number, _ in members]
    if len(members) == 1 or not all(number.isdecimal() for number in numbers):
        return members[0][1]
    return replace(members[0][1], name=_spans(sorted(map(int, numbers))).join(around))


def _spans(numbers: Iterable[int]) -> str:
    """``0-3, 5`` for 0, 1, 2, 3, 5."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    return "{" * (len(spans) > 1) + ",".join("-".join(map(str, span)) for span in spans) + "}" * (len(spans) > 1)


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, from its header alone; empty where there is none that can be read.

    The header is JSON, and before it stands its length as eight bytes, little-endian.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else {}
        return {name: tuple(each["shape"]) for name, each in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
