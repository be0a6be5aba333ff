"""Everything that acceleration may touch on a pipeline, to be compared before and after."""

from typing import Any

import torch
from torch import nn


def snapshot(pipe: Any) -> dict[str, dict[str, Any]]:
    """``vars()`` of the pipeline, its scheduler and every module, with the very objects in it."""
    found = {"pipe": dict(vars(pipe)), "scheduler": _scheduler(getattr(pipe, "scheduler", None))}
    for part in ("transformer", "transformer_2", "unet", "vae"):
        module = getattr(pipe, part, None)
        if isinstance(module, nn.Module):
            for name, inner in module.named_modules(prefix=part):
                found[name] = _module(inner)
    if isinstance(pipe, nn.Module):
        found.update({name: _module(inner) for name, inner in pipe.named_modules(prefix="self")})
    return found


def _scheduler(scheduler: Any) -> dict[str, Any]:
    # What a run leaves on a scheduler differs from run to run; which methods it has may not.
    return {name: value for name, value in vars(scheduler or object).items() if callable(value)} | {
        "class": type(scheduler)
    }


def _module(module: nn.Module) -> dict[str, Any]:
    held = dict(vars(module))
    for name in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
        held[name] = dict(held[name])
    return held


def assert_same(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> None:
    """Same places, same keys, the same objects behind them (bound methods: equal ones)."""
    assert before.keys() == after.keys()
    for place, attributes in before.items():
        assert attributes.keys() == after[place].keys(), place
        for name, value in attributes.items():
            other = after[place][name]
            if isinstance(value, dict):
                assert value.keys() == other.keys(), (place, name)
                assert all(other[key] is item for key, item in value.items()), (place, name)
            else:
                assert other is value or (callable(value) and other == value) or _plain(value, other), (place, name)


def _plain(value: Any, other: Any) -> bool:
    if isinstance(value, torch.Tensor):  # a pipeline keeps its current timestep
        return isinstance(other, torch.Tensor) and torch.equal(value, other)
    if isinstance(value, list):  # a video VAE keeps the features of its last frames
        return isinstance(other, list) and len(value) == len(other) and all(map(_plain, value, other))
    return isinstance(value, str | int | float | bool | tuple | type(None)) and value == other
