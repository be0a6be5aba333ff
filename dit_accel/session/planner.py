"""Puts passes in order and refuses combinations that cannot work, from what the passes declare of themselves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.passes.base import Pass, pass_of
from dit_accel.plan.config import PassConfig

if TYPE_CHECKING:
    from dit_accel.families.targets import Target


def order_passes(configs: Sequence[PassConfig], targets: "Sequence[Target]") -> list[tuple[Pass, PassConfig]]:
    """The passes in the order in which they must be applied.

    Raises:
        ConfigError: A pass is given twice, or two of them conflict; the reason is the pass's own.
        UnsupportedModelError: A pass cannot act on one of the targets; its obstacles are listed.
    """
    chosen = sorted(((pass_of(config), config) for config in configs), key=lambda pair: pair[0].order)
    names = [config.type_name for _, config in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"'{name}' is given {names.count(name)} times; a plan has each pass once")
    for acceleration, config in chosen:
        for other, reason in acceleration.conflicts.items():
            if other in names:
                raise ConfigError(f"'{config.type_name}' and '{other}' cannot be combined: {reason}")
        for target in targets:
            obstacles = acceleration.obstacles(target)
            if obstacles:
                raise UnsupportedModelError(
                    f"'{config.type_name}' cannot act on '{target.name}' ({type(target.denoiser).__name__}): "
                    + "; ".join(obstacles)
                )
    return chosen
