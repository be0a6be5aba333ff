"""What the configuration of a pass is, and how one is read from a plan file."""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.registry import Registry

if TYPE_CHECKING:
    import torch

ENTRY_POINTS = "dit_accel.passes"
# Modules that register the passes of this library, by the name of the pass: imported when a file names one.
_SHIPPED = {
    "compile": "dit_accel.passes.compile",
    "distilled": "dit_accel.passes.distilled",
    "encoder_propagation": "dit_accel.passes.encoder_propagation.apply",
    "first_block_cache": "dit_accel.passes.first_block_cache",
    "linear_attention": "dit_accel.passes.linear_attention",
    "paro_attention": "dit_accel.passes.attention.paro",
    "patch_parallel": "dit_accel.passes.patch_parallel.apply",
    "quantize": "dit_accel.passes.quantize.apply",
    "rettention": "dit_accel.passes.attention.rettention",
    "sla": "dit_accel.passes.attention.sla",
    "sparse_d": "dit_accel.passes.attention.sparse_d",
    "static_cache": "dit_accel.passes.static_cache",
    "static_mask": "dit_accel.passes.attention.static_mask",
    "teacache": "dit_accel.passes.teacache",
    "trajectory": "dit_accel.passes.trajectory.apply",
    "unet_switching": "dit_accel.passes.unet_switching",
    "vmoba": "dit_accel.passes.attention.vmoba",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PassConfig:
    """Base of all pass configurations. Subclasses set ``type_name`` and ``version`` and check their own fields.

    A config is plain data, but for tensors, which :meth:`tensors` names so that a plan can keep them beside its JSON.
    One that holds tensors is declared with ``eq=False``: it then compares by value, as the others do.
    """

    type_name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    is_timed_by_device: ClassVar[bool] = False
    """Whether the time that it saves on one kind of device says nothing of another."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PassConfig) or type(other) is not type(self):
            return NotImplemented
        mine, theirs = self.tensors(), other.tensors()
        if self.to_dict() != other.to_dict() or mine.keys() != theirs.keys():
            return False
        return all(tensor.dtype == theirs[name].dtype and tensor.equal(theirs[name]) for name, tensor in mine.items())

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data with ``type`` and ``version``."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"type": self.type_name, "version": self.version, **fields}

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Tensors that belong to this config, by name."""
        return {}

    @property
    def is_lossless(self) -> bool:
        """Whether the outputs are bit-equal to the plain pipeline's by construction, in any run."""
        return False

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


CONFIGS: Registry[type[PassConfig]] = Registry("pass")


def pass_names() -> tuple[str, ...]:
    """Names of all passes: those of this library, of installed packages that declare them, and registered by hand."""
    return tuple(dict.fromkeys((*_SHIPPED, *_declared(), *CONFIGS)))


def config_class(name: str) -> type[PassConfig]:
    """The config class of the pass ``name``; the module that registers it is imported if need be.

    Other packages declare theirs as entry points of the group ``dit_accel.passes``: the name of the pass and the
    module that registers it.

    Raises:
        ConfigError: There is no such pass.
    """
    if name not in CONFIGS:
        module = _SHIPPED.get(name) or _declared().get(name)
        if module is None:
            known = pass_names()
            raise ConfigError(f"unknown pass '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.")
        importlib.import_module(module)
    return CONFIGS.get(name)


@cache
def _declared() -> dict[str, str]:
    return {point.name: point.module for point in entry_points(group=ENTRY_POINTS)}


def config_from_dict(data: Mapping[str, Any], tensors: "Mapping[str, torch.Tensor]") -> PassConfig:
    """Read one pass config from JSON data.

    Raises:
        ConfigError: Unknown type or key, or a version newer than this library knows.
    """
    fields = dict(data)
    name, version = fields.pop("type", None), fields.pop("version", 1)
    if not isinstance(name, str):
        raise ConfigError("a pass needs a 'type', e.g. 'static_cache'")
    config = config_class(name)
    if not isinstance(version, int) or version > config.version:
        raise ConfigError(
            f"'{name}' has version {version}, this dit-accel reads up to {config.version}: update dit-accel"
        )
    try:
        return config.from_dict(fields, tensors)
    except TypeError as error:
        raise ConfigError(f"'{name}': {error}") from error
