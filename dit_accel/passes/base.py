"""What a pass is: a frozen config, and a declaration of what it needs, what it excludes, and how it is applied."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.registry import Registry

if TYPE_CHECKING:
    import torch

    from dit_accel.session import Session, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class PassConfig:
    """Base of all pass configurations. Subclasses set ``type_name`` and ``version`` and check their own fields.

    A config is plain data, but for tensors, which :meth:`tensors` names so that a plan can keep them beside its JSON.
    """

    type_name: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data with ``type`` and ``version``."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"type": self.type_name, "version": self.version, **fields}

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Tensors that belong to this config, by name."""
        return {}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: "Mapping[str, torch.Tensor]") -> "PassConfig":
        """Build from the fields of :meth:`to_dict` without ``type`` and ``version``.

        Raises:
            ConfigError: A key is unknown (the nearest known one is named) or a value is not valid.
        """
        cls.check_keys(data)
        return cls(**data)

    @classmethod
    def check_keys(cls, data: Mapping[str, Any]) -> None:
        """Refuse keys that are no fields of this config."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                raise ConfigError(
                    f"'{cls.type_name}' has no setting '{key}'.{did_you_mean(key, known)} It has: {', '.join(known)}."
                )


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
    obstacles: "Callable[[Target], list[str]]"
    apply: "Callable[[Session, Any], None]"


PASSES: Registry[Pass] = Registry("pass")


def pass_of(config: PassConfig) -> Pass:
    """The registered pass for a config object.

    Raises:
        ConfigError: The object is no pass config, or its type is not registered.
    """
    if not isinstance(config, PassConfig):
        raise ConfigError(f"expected a pass config such as StaticCacheConfig, got {type(config).__name__}")
    return PASSES.get(config.type_name)


def config_from_dict(data: Mapping[str, Any], tensors: "Mapping[str, torch.Tensor]") -> PassConfig:
    """Read one pass config from JSON data.

    Raises:
        ConfigError: Unknown type or key, or a version newer than this library knows.
    """
    fields = dict(data)
    name, version = fields.pop("type", None), fields.pop("version", 1)
    if not isinstance(name, str):
        raise ConfigError("a pass needs a 'type', e.g. 'static_cache'")
    config = PASSES.get(name).config
    if not isinstance(version, int) or version > config.version:
        raise ConfigError(
            f"'{name}' has version {version}, this dit-accel reads up to {config.version}: update dit-accel"
        )
    try:
        return config.from_dict(fields, tensors)
    except TypeError as error:
        raise ConfigError(f"'{name}': {error}") from error
