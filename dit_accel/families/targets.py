"""The denoisers of a live pipeline that a pass may act on."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from dit_accel.families.base import Family, Layout
from dit_accel.families.catalog import resolve_family
from dit_accel.families.pipeline import find_denoisers


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A denoiser that a pass may act on.

    Attributes:
        name: Attribute of the pipeline that holds it, e.g. ``"transformer"``.
        denoiser: The module itself, without compile or adapter wrappers.
        family: Registered or discovered facts about it.
        layout: Its sites.
        beside: Names of the other denoisers of its pipeline.
    """

    name: str
    denoiser: nn.Module
    family: Family
    layout: Layout
    beside: tuple[str, ...] = ()


def find_targets(pipe: Any) -> tuple[Target, ...]:
    """The denoisers of a pipeline (two for Wan 2.2), or the denoiser itself when a bare one is given.

    Raises:
        UnsupportedModelError: There is none, or it is of no kind that we understand.
    """
    targets = []
    found = find_denoisers(pipe)
    for name, module in found:
        family = resolve_family(module)
        beside = tuple(other for other, _ in found if other != name)
        targets.append(Target(name=name, denoiser=module, family=family, layout=family.bind(module), beside=beside))
    return tuple(targets)
