"""What we lend to diffusers' caches where a model lacks it, outside their code; ``Snapshot`` takes it back.

- A denoiser without ``CacheMixin`` (PixArt, UNets) gets it, and every call gets a cache context.
- A pipeline that does not tell its current timestep gets told by its denoiser.
- Pyramid Attention Broadcast and FasterCache keep one state per attention; where guidance takes two calls a step (Wan)
  one branch would be answered with the other's attention. Each branch gets a state of its own.
"""

import inspect
from typing import Any

import torch
from diffusers import CacheMixin
from torch import nn

from dit_accel.families import resolve_family
from rivals.trajectory import Trajectory, only_denoiser


def make_cacheable(pipe: Any) -> nn.Module:
    """The denoiser, with ``enable_cache`` and a cache context in every call; state is reset when a run starts."""
    denoiser = only_denoiser(pipe)
    if not isinstance(denoiser, CacheMixin):
        kind = type(denoiser)
        denoiser.__class__ = type(kind.__name__, (kind, CacheMixin), {"__module__": kind.__module__})
    return denoiser


def provide_context(pipe: Any) -> None:
    """Set a context in every call of a pipeline that sets none; to be called after the cache is enabled."""
    denoiser = only_denoiser(pipe)
    if _sets_contexts(pipe):
        return
    trajectory = Trajectory(pipe, denoiser._reset_stateful_cache)

    def call(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with denoiser.cache_context("cond" if trajectory.branch == 0 else "uncond"):
            return forward(*args, **kwargs)

    trajectory.wrap(call)


class Timestep:
    """A callback that gives the current timestep of a pipeline's scheduler, in [0, 1000]."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.seen: Any = None
        if not hasattr(type(pipe), "current_timestep"):
            only_denoiser(pipe).register_forward_pre_hook(self._record, with_kwargs=True)

    def __call__(self) -> float:
        return float(self.pipe.current_timestep if self.seen is None else self.seen)

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        self.seen = timestep.flatten()[0] if isinstance(timestep, torch.Tensor) else timestep


def separate_branches(pipe: Any, hook_name: str) -> None:
    """Give each guidance branch its own state of the hooks called ``hook_name``."""
    denoiser = only_denoiser(pipe)
    registries = [module._diffusers_hook for module in denoiser.modules() if hasattr(module, "_diffusers_hook")]
    hooks = [registry.hooks[hook_name] for registry in registries if hook_name in registry.hooks]
    states = [[hook.state, type(hook.state)()] for hook in hooks]

    def start() -> None:
        for pair in states:
            for state in pair:
                state.reset()

    trajectory = Trajectory(pipe, start)

    def call(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for hook, pair in zip(hooks, states, strict=True):
            hook.state = pair[trajectory.branch]
        return forward(*args, **kwargs)

    trajectory.wrap(call)


def two_calls(pipe: Any) -> bool:
    """Whether guidance takes a denoiser call of its own."""
    return resolve_family(only_denoiser(pipe)).guidance == "two_calls"


def _sets_contexts(pipe: Any) -> bool:
    # Subclasses and decorators that wrap the stock call are seen through.
    return "cache_context" in inspect.getsource(type(pipe).__call__)
