"""What a pass is: a frozen config, and a declaration of what it needs, what it excludes, and how it is applied."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target
from dit_accel.plan.config import CONFIGS, PassConfig
from dit_accel.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One technique.

    Attributes:
        config: Its config class; ``config.type_name`` is the pass's name.
        summary: One line for people.
        order: Where it stands: lower is applied first.
        conflicts: Names of passes it cannot be combined with, each with the reason.
        reversible: Whether :func:`dit_accel.remove_acceleration` can undo it.
        obstacles: Function of a target to the reasons why the pass cannot act on it (none: it can).
        apply: Makes the changes through ``session.ledger``.
    """

    config: type[PassConfig]
    summary: str
    order: int
    conflicts: Mapping[str, str] = field(default_factory=dict)
    reversible: bool = True
    obstacles: Callable[[Target], list[str]]
    apply: Callable[[Any, Any], None]


PASSES: Registry[Pass] = Registry("pass")


def register_pass(acceleration: Pass) -> Pass:
    """Make a pass known under its config's ``type_name``, to plans in memory and in files.

    Raises:
        ConfigError: The name is taken.
    """
    name = acceleration.config.type_name
    PASSES.register(name)(acceleration)
    CONFIGS.register(name)(acceleration.config)
    return acceleration


def pass_of(config: PassConfig) -> Pass:
    """The registered pass for a config object.

    Raises:
        ConfigError: The object is no pass config, or its type is not registered.
    """
    if not isinstance(config, PassConfig):
        raise ConfigError(f"expected a pass config such as StaticCacheConfig, got {type(config).__name__}")
    return PASSES.get(config.type_name)
