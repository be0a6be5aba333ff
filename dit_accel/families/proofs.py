"""Proofs by perturbation that a layout's facts hold: who reads an output, what is invariant, what a block streams.

A fact that is wrong gives wrong pictures without a word, and no dry run can see it. So outputs are replaced by noise,
readers are held at what they returned before, and the model's answer is compared bit by bit. Every replacement is a
forward hook that is taken off again: the model stays as it was.
"""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import BoundSite, Family, Layout, submodule
from dit_accel.families.grid import token_grid

Tree = Any
Replacement = Callable[[Tree, int], Tree]

# A stream that is this much larger than what normed and gated modules add to it must come out as it went in.
_LOUD = 100.0
_LOUD_TOLERANCE_FRAC = 0.5


def tree_map(function: Callable[[torch.Tensor], torch.Tensor], tree: Tree) -> Tree:
    """Apply a function to every tensor of an output."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(tree_map(function, item) for item in tree)
    return tree


def flat(tree: Tree) -> torch.Tensor:
    """All tensors of an output, one after the other, as float32."""
    if isinstance(tree, torch.Tensor):
        return tree.flatten().float()
    items = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple | list) else ()
    parts = [flat(item) for item in items if item is not None]
    return torch.cat(parts) if parts else torch.zeros(0)


def noise_like(tree: Tree, *, seed: int = 99, scale: float = 1.0) -> Tree:
    """Standard normal values of an output's shapes; what is not floating point stays."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        return (scale * torch.randn(tensor.shape, generator=generator)).to(tensor.device, tensor.dtype)

    return tree_map(noise, tree)


@dataclass(frozen=True)
class Trial:
    """A live model, the sites found in it, and one call."""

    model: nn.Module
    layout: Layout
    inputs: Mapping[str, Any]

    @cached_property
    def readers(self) -> frozenset[str]:
        """Ids of all sites that some other site names as its reader."""
        return frozenset(reader for site in self.layout.sites for reader in site.info.feeds)

    @cached_property
    def seen(self) -> dict[str, list[Tree]]:
        """What the model, the readers and the invariant sites return, call by call."""
        invariant = {site.info.id for site in self.layout.sites if site.info.invariant}
        return self.record({"model", *self.readers, *invariant})

    @cached_property
    def plain(self) -> torch.Tensor:
        """The model's answer when nothing is replaced."""
        return flat(self.seen["model"][0])

    def record(self, ids: Collection[str], inputs: Mapping[str, Any] | None = None) -> dict[str, list[Tree]]:
        """What the named sites return in one call, call by call of the site."""
        seen: dict[str, list[Tree]] = {site_id: [] for site_id in ids}

        def hook(site: BoundSite) -> Callable[..., Any] | None:
            if site.info.id not in seen:
                return None
            return lambda module, args, kwargs, out: seen[site.info.id].append(tree_map(torch.clone, out))

        with torch.no_grad(), self._hooked(hook):
            self.model(**(self.inputs if inputs is None else inputs))
        return seen

    def run(self, replaced: Mapping[str, Replacement]) -> torch.Tensor:
        """The model's answer while some sites return something else: ``replaced[id](output, call)``."""

        def hook(site: BoundSite) -> Callable[..., Any] | None:
            function = replaced.get(site.info.id)
            if function is None:
                return None
            calls = iter(range(10**6))
            return lambda module, args, kwargs, output: function(output, next(calls))

        with torch.no_grad(), self._hooked(hook):
            return flat(self.model(**self.inputs))

    @contextlib.contextmanager
    def _hooked(self, hook: Callable[[BoundSite], Callable[..., Any] | None]) -> Iterator[None]:
        handles = []
        try:
            for site in self.layout.sites:
                module, function = submodule(self.model, site.path), hook(site)
                if module is not None and function is not None:
                    handles.append(module.register_forward_hook(function, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


def repeat_faults(trial: Trial) -> list[str]:
    """Two calls must answer alike, with finite values: otherwise nothing can be proven."""
    if not torch.isfinite(trial.plain).all():
        return ["the sample call answers with values that are not finite, so nothing can be proven"]
    if not torch.equal(trial.run({}), trial.plain):
        return ["two equal calls answer differently, so nothing can be proven (dropout? a cache?)"]
    return []


def feeds_faults(trial: Trial, site: BoundSite) -> list[str]:
    """Put noise into a site's output, hold its readers at what they returned before: nothing may change.

    Each reader is run on the noise before its output is held; it must have computed something else than before.
    """
    readers, name, seen = site.info.feeds, site.info.id, trial.seen
    got: dict[str, list[Tree]] = {reader: [] for reader in readers}

    def hold(reader: str, output: Tree, call: int) -> Tree:
        got[reader].append(output)
        return seen[reader][call]

    held: dict[str, Replacement] = {reader: partial(hold, reader) for reader in readers}
    answer = trial.run({**held, name: lambda output, call: noise_like(output)})
    faults = []
    if not torch.equal(answer, trial.plain):
        faults.append(f"{name}: has more readers than its `feeds` ({', '.join(readers)})")
    for reader in readers:
        if torch.equal(flat(got[reader]), flat(seen[reader])):
            faults.append(f"{name}: is not read by {reader}, which its `feeds` name")
    return faults


def matter_faults(trial: Trial, site: BoundSite) -> list[str]:
    """Noise in a site's output must change the answer.

    Only the text side of a last block may be without influence: nobody reads that stream any more.
    """
    info = site.info
    if not torch.equal(trial.run({info.id: lambda output, call: noise_like(output)}), trial.plain):
        return []
    if info.block == trial.layout.graph.num_blocks - 1 and (info.kind == "ff_context" or info.auxiliary):
        return []
    return [f"{info.id}: the answer does not depend on what it returns"]


def invariant_faults(trial: Trial, conditioning: Sequence[str]) -> list[str]:
    """Another latent, time and guidance under the same prompt: what an invariant site returns may not change."""
    others = other_call(trial.inputs, conditioning)
    invariant = [site.info.id for site in trial.layout.sites if site.info.invariant]
    seen = trial.record({"model", *invariant}, others)
    if torch.equal(flat(seen["model"][0]), trial.plain):
        return ["another latent and another time give the same answer, so no site can be shown to be invariant"]
    return [
        f"{name}: is called `invariant`, but sees the latents or the time"
        for name in invariant
        if not torch.equal(flat(seen[name]), flat(trial.seen[name]))
    ]


def other_call(inputs: Mapping[str, Any], conditioning: Sequence[str]) -> dict[str, Any]:
    """The inputs of another step of a run: other latents, time and guidance, the same prompt."""
    others = dict(inputs)
    latents = next(iter(inputs))
    for name in (latents, "audio_hidden_states"):
        if name in inputs:
            others[name] = noise_like(inputs[name])
    for name in ("timestep", "timesteps", "t", "sigma", "guidance"):
        if name in inputs and name not in (latents, *conditioning):
            others[name] = _halved(inputs[name])
    return others


def _halved(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value * 0.5 if value.is_floating_point() else value // 2 + 1
    return value / 2 if isinstance(value, float) else value // 2 + 1 if isinstance(value, int) else value


def stream_faults(trial: Trial) -> list[str]:
    """What a block returns must be its stream arguments plus something.

    Every block is given noise, another one for each stream and far louder than what its modules can add, while the
    sites inside it return zeros: then each stream must come out much as it went in, under its own name. That is weaker
    than equality, so that a block may also add something that no site stands for.
    """
    blocks = [site for site in trial.layout.sites if site.streams]
    loud: dict[str, list[Tree]] = {}
    faults: list[str] = []
    handles = []
    for number, block in enumerate(blocks):
        module = submodule(trial.model, block.path)
        if module is not None:
            before = partial(_loud_streams, block=block, seed=number, loud=loud)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    silent = {
        site.info.id
        for site in trial.layout.sites
        if site.info.parent in {block.info.id for block in blocks} and not site.info.auxiliary
    }

    def compare(block: BoundSite, output: Tree, call: int) -> Tree:
        returned = list(output) if isinstance(output, tuple | list) else [output]
        for (_, name), went_in, came_out in zip(block.streams, loud[block.info.id], returned, strict=False):
            if came_out is not None and not _alike(came_out, went_in):
                faults.append(f"{block.info.id}: what it returns as '{name}' is not its '{name}' plus something")
        return output

    zeros: dict[str, Replacement] = dict.fromkeys(silent, lambda output, call: tree_map(torch.zeros_like, output))
    try:
        trial.run({**zeros, **{block.info.id: partial(compare, block) for block in blocks}})
    finally:
        for handle in handles:
            handle.remove()
    return faults


def _loud_streams(
    module: nn.Module, args: Any, kwargs: Any, *, block: BoundSite, seed: int, loud: dict[str, list[Tree]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = list(args), dict(kwargs)
    loud[block.info.id] = []
    for index, (place, name) in enumerate(block.streams):
        given = args[place] if place < len(args) else kwargs.get(name)
        noise = noise_like(given, seed=1000 * seed + index, scale=_LOUD)
        # Native code may add in place.
        loud[block.info.id].append(tree_map(torch.clone, noise))
        if place < len(args):
            args[place] = noise
        elif name in kwargs:
            kwargs[name] = noise
    return tuple(args), kwargs


def _alike(came_out: Any, went_in: Any) -> bool:
    if not (isinstance(came_out, torch.Tensor) and isinstance(went_in, torch.Tensor)):
        return False
    if came_out.shape != went_in.shape:
        return False
    difference = (came_out.float() - went_in.float()).norm()
    return bool(difference <= _LOUD_TOLERANCE_FRAC * went_in.float().norm())


def grid_faults(trial: Trial, family: Family) -> list[str]:
    """The blocks must see as many tokens as the call's token grid has, with or without text."""
    grid = token_grid(family, trial.model, trial.inputs)
    blocks = [site for site in trial.layout.sites if site.streams]
    if grid is None or not blocks:
        return []
    lengths: set[int] = set()
    handles = []

    def note(module: nn.Module, args: Any, kwargs: Any, *, block: BoundSite) -> None:
        for place, name in block.streams:
            given = args[place] if place < len(args) else kwargs.get(name)
            if isinstance(given, torch.Tensor) and given.dim() > 2:
                lengths.add(math.prod(given.shape[1:-1]))

    try:
        for block in blocks:
            module = submodule(trial.model, block.path)
            if module is not None:
                handles.append(module.register_forward_pre_hook(partial(note, block=block), with_kwargs=True))
        trial.run({})
    finally:
        for handle in handles:
            handle.remove()
    image = grid.num_tokens + grid.reference
    end = image if grid.text is None else max(grid.text[1], grid.text[1] - grid.text[0] + image)
    if lengths & {image, end}:
        return []
    shape = "×".join(str(size) for size in grid.size)
    seen = ", ".join(str(length) for length in sorted(lengths)) or "no tokens"
    return [f"token grid {shape} is {image} tokens ({end} with text), but the blocks see {seen}"]
