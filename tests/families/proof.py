"""Proofs by perturbation that a layout's facts hold: who reads an output, what is invariant, what a block streams."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import BoundSite, Layout, submodule

Tree = Any


def tree_map(function: Callable[[torch.Tensor], torch.Tensor], tree: Tree) -> Tree:
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(tree_map(function, item) for item in tree)
    return tree


def flat(tree: Tree) -> torch.Tensor:
    """All tensors of an output, one after the other."""
    if isinstance(tree, torch.Tensor):
        return tree.flatten().float()
    parts = [flat(item) for item in tree if item is not None]
    return torch.cat(parts) if parts else torch.zeros(0)


def noise_like(tree: Tree) -> Tree:
    generator = torch.Generator().manual_seed(99)
    return tree_map(lambda t: torch.randn(t.shape, generator=generator).to(t.dtype), tree)


@contextlib.contextmanager
def hooked(model: nn.Module, layout: Layout, hook: Callable[[BoundSite], Callable[..., Any] | None]) -> Iterator[None]:
    handles = []
    for site in layout.sites:
        module = submodule(model, site.path)
        function = hook(site)
        if module is not None and function is not None:
            handles.append(module.register_forward_hook(function, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def record(model: nn.Module, layout: Layout, inputs: dict[str, Any]) -> dict[str, list[Tree]]:
    """What every site returned, call by call."""
    seen: dict[str, list[Tree]] = {site.info.id: [] for site in layout.sites}

    def hook(site: BoundSite) -> Callable[..., Any]:
        def keep(module: nn.Module, args: Any, kwargs: Any, output: Tree) -> None:
            seen[site.info.id].append(tree_map(torch.clone, output))

        return keep

    with torch.no_grad(), hooked(model, layout, hook):
        model(**inputs)
    return seen


def run(
    model: nn.Module, layout: Layout, inputs: dict[str, Any], replaced: dict[str, Callable[[Tree, int], Tree]]
) -> torch.Tensor:
    """The model's output while some sites return something else: ``replaced[id](output, call)``."""

    def hook(site: BoundSite) -> Callable[..., Any] | None:
        function = replaced.get(site.info.id)
        if function is None:
            return None
        calls = iter(range(100))
        return lambda module, args, kwargs, output: function(output, next(calls))

    with torch.no_grad(), hooked(model, layout, hook):
        return flat(model(**inputs))


def prove_feeds(
    model: nn.Module, layout: Layout, inputs: dict[str, Any], seen: dict[str, list[Tree]], site: BoundSite
) -> None:
    """Put noise into a site's output, hold its readers at what they returned before: nothing may change.

    Each reader is run on the noise before its output is held; it must have computed something else than before.
    """
    got: dict[str, list[Tree]] = {reader: [] for reader in site.info.feeds}

    def held(reader: str) -> Callable[[Tree, int], Tree]:
        def hold(output: Tree, call: int) -> Tree:
            got[reader].append(output)
            return seen[reader][call]

        return hold

    noise = {site.info.id: lambda output, call: noise_like(output)}
    output = run(model, layout, inputs, {**noise, **{reader: held(reader) for reader in site.info.feeds}})
    assert torch.equal(output, flat(seen["model"][0])), f"{site.info.id} has more readers than {site.info.feeds}"
    for reader in site.info.feeds:
        assert not torch.equal(flat(got[reader]), flat(seen[reader])), f"{site.info.id} is not read by {reader}"
