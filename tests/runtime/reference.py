"""What an accelerated run must equal, by other means: everything is computed, then plain forward hooks overwrite.

Shares no code with the runtime: no wrappers, no clock, no liveness. The caller says which step and branch each
denoiser call belongs to.
"""

import contextlib
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dit_accel.families import resolve_family
from dit_accel.families.base import BoundSite, submodule
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.schedules import Schedule, SiteGraph

Tree = Any
Locate = Callable[[int], tuple[int, Hashable]]  # number of the denoiser call -> (step, branch)


def one_call(call: int) -> tuple[int, Hashable]:
    """One denoiser call per step."""
    return call, "only"


def two_calls(call: int) -> tuple[int, Hashable]:
    """Two denoiser calls per step."""
    return call // 2, call % 2


def tree_map(function: Callable[[torch.Tensor], torch.Tensor], tree: Tree) -> Tree:
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return type(tree)(**{key: tree_map(function, item) for key, item in tree.items()})
    if isinstance(tree, tuple | list):
        return type(tree)(tree_map(function, item) for item in tree)
    return tree


def graph_of(denoiser: nn.Module) -> SiteGraph:
    return resolve_family(denoiser).bind(denoiser).graph


@contextlib.contextmanager
def replayed(denoiser: nn.Module, schedule: Schedule, locate: Locate = one_call) -> Iterator[list[tuple[int, Any]]]:
    """Make ``denoiser`` behave as by ``schedule``; yields the list of the (step, branch) of its calls so far."""
    layout = resolve_family(denoiser).bind(denoiser)
    kept: dict[tuple[Hashable, str], Tree] = {}
    reuses: dict[str, bool | None] = {}
    seen: list[tuple[int, Any]] = []

    def decide(module: nn.Module, args: Any) -> None:
        step, branch = locate(len(seen))
        seen.append((step, branch))
        for site in layout.graph:  # parents first
            inside_a_reused_one = site.parent is not None and reuses[site.parent] is not False
            reuse = (branch, site.id) in kept and not schedule.recomputes(step, site.id)
            reuses[site.id] = None if inside_a_reused_one else reuse

    def overwrite(site: BoundSite) -> Callable[..., Tree]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tree) -> Tree:
            key = (seen[-1][1], site.info.id)
            if site.info.auxiliary or reuses[site.info.id] is None:
                return output
            streams = [kwargs[name] if name in kwargs else args[place] for place, name in site.streams]
            if reuses[site.info.id]:
                if not streams:
                    return tree_map(torch.clone, kept[key])
                pairs = zip(streams, kept[key], strict=True)
                restored = tuple(None if change is None else before + change for before, change in pairs)
                return restored if isinstance(output, tuple) else restored[0]
            if streams:
                after = output if isinstance(output, tuple) else (output,)
                pairs = zip(after, streams, strict=True)
                kept[key] = tuple(None if now is None else now - before for now, before in pairs)
            else:
                kept[key] = tree_map(torch.clone, output)
            return output

        return hook

    handles = [denoiser.register_forward_pre_hook(decide)]
    for site in layout.sites:
        module = submodule(denoiser, site.path)
        assert module is not None
        handles.append(module.register_forward_hook(overwrite(site), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def every_second(denoiser: nn.Module, num_steps: int, pattern: str = "*") -> Schedule:
    """Leaf sites reuse at odd steps."""
    graph = graph_of(denoiser)
    parents = {site.parent for site in graph}
    leaves = [s for s in graph.select(pattern) if s.kind not in ("model", "block", "text") and s.id not in parents]
    leaves += [s for s in graph.select(pattern) if s.kind.endswith("attn") and s.id in parents]
    bits = [step % 2 == 0 for step in range(num_steps)]
    return Schedule(num_steps, {site.id: bits for site in leaves})


def random_schedule(denoiser: nn.Module, num_steps: int, seed: int, *, kinds: Sequence[str] | None = None) -> Schedule:
    """Any mixture: leaves, whole blocks, the whole model."""
    chooser = random.Random(seed)
    rows: dict[str, list[bool]] = {}
    for site in graph_of(denoiser).select(kinds=kinds):
        density = {"model": 0.9, "block": 0.8}.get(site.kind, 0.5)
        if chooser.random() < 0.8:
            rows[site.id] = [chooser.random() < density for _ in range(num_steps)]
    return Schedule(num_steps, rows)


def config(schedule: Schedule, **more: Any) -> StaticCacheConfig:
    return StaticCacheConfig(schedule=schedule, **more)


def tensor_of(output: Any) -> torch.Tensor:
    """The latents of a pipeline's output."""
    first = output[0] if not isinstance(output, torch.Tensor) else output
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


class ParameterReads(torch.overrides.TorchFunctionMode):
    """Counts the operations that read each parameter: which modules really ran."""

    OPERATIONS = frozenset({"linear", "conv1d", "conv2d", "conv3d", "layer_norm", "group_norm", "rms_norm"})

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names: Mapping[int, str] = {id(p): name for name, p in model.named_parameters()}
        self.counts = dict.fromkeys(self.names.values(), 0)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in self.OPERATIONS:
            for item in (*args, *(kwargs or {}).values()):
                if isinstance(item, nn.Parameter) and id(item) in self.names:
                    self.counts[self.names[id(item)]] += 1
        return function(*args, **(kwargs or {}))

    def under(self, path: str) -> int:
        """How often the module at ``path`` ran, by the parameter of it that was read most."""
        counts = [count for name, count in self.counts.items() if name.startswith(path + ".")]
        return max(counts, default=0)
