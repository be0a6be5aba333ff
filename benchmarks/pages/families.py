"""What each pass says of each model family, asked of tiny random models; nothing is run."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dit_accel.families import Family, resolve_family
from dit_accel.families.catalog import find_family, known_families
from dit_accel.families.targets import Target
from dit_accel.passes.base import PHASES, Pass, find_pass
from dit_accel.plan.config import config_class, pass_names

TESTS = Path(__file__).resolve().parents[2] / "tests"


@dataclass(frozen=True, slots=True)
class Answers:
    """What the passes say of one family.

    Attributes:
        family: The family.
        classes: Its denoisers of which a tiny model was asked.
        kinds: Of sites that a schedule may name.
        obstacles: For each pass the reasons why it cannot act, each with the tiny models that it holds for; empty
            when it can.
        partly: Passes that can act on some of the tiny models.
    """

    family: Family
    classes: tuple[str, ...]
    kinds: tuple[str, ...]
    obstacles: dict[str, dict[str, list[str]]]
    partly: frozenset[str]

    def works(self, name: str) -> str:
        """``yes``, ``partly`` or ``no``."""
        return "partly" if name in self.partly else "no" if self.obstacles[name] else "yes"


@cache
def own_passes() -> tuple[Pass[Any], ...]:
    """The passes of this library, in the order in which they are applied."""
    own = [name for name in pass_names() if config_class(name).__module__.startswith("dit_accel.")]
    return tuple(sorted(map(find_pass, own), key=lambda each: (PHASES.index(each.phase), each.name)))


@cache
def ask_families() -> tuple[Answers, ...]:
    """Every described family of which the tests have a tiny model, in the order of the catalogue."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    from tiny_models import TINY_NAMES, tiny_model

    targets: dict[str, dict[str, Target]] = {}
    for name in TINY_NAMES:
        model = tiny_model(name)
        if find_family(model) is None:
            continue
        family = resolve_family(model)
        target = Target(name=name, denoiser=model, family=family, layout=family.bind(model))
        targets.setdefault(family.name, {})[name] = target
    order = {each: place for place, each in enumerate(known_families())}
    answers = [ask_family(group, own_passes()) for group in targets.values()]
    return tuple(sorted(answers, key=lambda each: min(order.get(name, len(order)) for name in each.classes)))


def not_asked() -> tuple[str, ...]:
    """Described classes of which there is no tiny model."""
    asked = {name for each in ask_families() for name in each.classes}
    return tuple(name for name in known_families() if name not in asked)


def ask_family(group: dict[str, Target], passes: Sequence[Pass[Any]]) -> Answers:
    """What the passes say of one family.

    Args:
        group: Targets of that family by the name of the tiny model.
        passes: The passes to ask.
    """
    family = next(iter(group.values())).family
    obstacles: dict[str, dict[str, list[str]]] = {}
    partly = set()
    for each in passes:
        found = {name: each.obstacles(target, each.example()) for name, target in group.items()}
        reasons = dict.fromkeys(reason for several in found.values() for reason in several)
        obstacles[each.name] = {reason: [name for name in found if reason in found[name]] for reason in reasons}
        if any(found.values()) and not all(found.values()):
            partly.add(each.name)
    kinds = dict.fromkeys(kind for target in group.values() for kind in target.layout.graph.kinds)
    return Answers(family, _classes(group.values()), tuple(kinds), obstacles, frozenset(partly))


def _classes(targets: Iterable[Target]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(type(target.denoiser).__name__ for target in targets))
