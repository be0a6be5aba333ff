"""Puts a pipeline back exactly, whatever was done to it: rivals leave hooks, attributes and patched classes behind."""

from typing import Any

from torch import nn

from dit_accel.families.pipeline import find_denoisers

CLASS_KEYS = ("__call__", "_is_cached", "_original_call")  # what cache-dit sets on the class of a pipeline


class Snapshot:
    """Remembers the pipeline, its scheduler's methods, its class, and every module of its denoisers.

    Tensors are not copied: a rival that changes weights is not one of ours.

    Args:
        pipe: A pipeline that holds denoisers.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.pipe_class = type(pipe)
        self.class_attributes = {key: vars(self.pipe_class)[key] for key in CLASS_KEYS if key in vars(self.pipe_class)}
        self.methods = _methods(pipe.scheduler)
        modules = dict.fromkeys(part for _, root in find_denoisers(pipe) for part in root.modules())
        self.objects = [(thing, type(thing), _copied(vars(thing))) for thing in (pipe, *modules)]

    def restore(self) -> None:
        """Undo everything."""
        for key in CLASS_KEYS:
            if key in self.class_attributes:
                setattr(self.pipe_class, key, self.class_attributes[key])
            elif key in vars(self.pipe_class):
                delattr(self.pipe_class, key)
        scheduler = vars(self.pipe.scheduler)
        for key in _methods(self.pipe.scheduler):
            if key not in self.methods:
                del scheduler[key]
        scheduler.update(self.methods)
        for thing, kind, attributes in self.objects:
            if type(thing) is not kind:
                thing.__class__ = kind
            _put_back(vars(thing), attributes)


def _methods(thing: Any) -> dict[str, Any]:
    """Functions that were set on an instance, over those of its class."""
    return {key: value for key, value in vars(thing).items() if callable(value) and not isinstance(value, nn.Module)}


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes; the dictionaries among them (hooks, submodules, parameters) with copies of themselves."""
    return {key: (value, dict(value)) if type(value) in _DICTS else (value,) for key, value in attributes.items()}


def _put_back(attributes: dict[str, Any], saved: dict[str, Any]) -> None:
    for key in [key for key in attributes if key not in saved]:
        del attributes[key]
    for key, (value, *contents) in saved.items():
        attributes[key] = value
        # Order counts: a submodule that was taken out and put back comes last, also in the state dict.
        if contents and [(k, id(v)) for k, v in value.items()] != [(k, id(v)) for k, v in contents[0].items()]:
            value.clear()
            value.update(contents[0])


_DICTS = tuple({type(each) for each in vars(nn.Module()).values() if isinstance(each, dict)} | {dict})
