"""Puts passes in order and refuses combinations that cannot work, from what the passes declare of themselves."""

from collections.abc import Sequence
from typing import Any

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.families.targets import Target
from dit_accel.passes.base import PHASES, Pass, pass_of
from dit_accel.plan.config import PassConfig

Chosen = tuple[Pass[Any], PassConfig]


def order_passes(configs: Sequence[PassConfig], targets: Sequence[Target]) -> list[Chosen]:
    """The passes in the order in which they must be applied.

    Raises:
        ConfigError: A pass is given twice, or two of them conflict; the reason is the pass's own, or both claim to be
            the only one to do something.
        UnsupportedModelError: A pass cannot act on one of the targets; its obstacles are listed.
    """
    chosen = sorted(((pass_of(config), config) for config in configs), key=lambda pair: PHASES.index(pair[0].phase))
    names = [acceleration.name for acceleration, _ in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"'{name}' is given {names.count(name)} times; a plan has each pass once")
    _refuse_conflicts(chosen)
    for acceleration, config in chosen:
        for target in targets:
            obstacles = acceleration.obstacles(target, config)
            if obstacles:
                raise UnsupportedModelError(
                    f"'{acceleration.name}' cannot act on '{target.name}' ({type(target.denoiser).__name__}): "
                    + "; ".join(obstacles)
                )
    return chosen


def _refuse_conflicts(chosen: Sequence[Chosen]) -> None:
    owners: dict[str, str] = {}
    names = [acceleration.name for acceleration, _ in chosen]
    for acceleration, _ in chosen:
        for other, reason in acceleration.conflicts.items():
            if other in names:
                raise ConfigError(f"'{acceleration.name}' and '{other}' cannot be combined: {reason}")
        for claim in sorted(acceleration.claims):
            owner = owners.setdefault(claim, acceleration.name)
            if owner != acceleration.name:
                raise ConfigError(
                    f"'{owner}' and '{acceleration.name}' cannot be combined: both want to be the one that {claim}"
                )
