"""A dry run that checks a family against a live model: use it on a family of your own before trusting it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import BoundSite, Layout, submodule


def check_layout(model: nn.Module, layout: Layout, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """Run the model once and compare what its modules do with what the layout says of them.

    Checked: every site exists and is called exactly once; a block returns as many values as it has streams, of the
    shapes of the arguments they are named after; and each returned stream is what the next block takes under that
    name. Not checked, because one run cannot show it: that ``feeds`` names every reader, and that ``invariant`` sites
    are. ``tests/families`` proves both by perturbation for the shipped families.

    Args:
        model: The denoiser; it is run once without gradients.
        layout: What ``Family.bind`` found.
        inputs: Keyword arguments of one call.

    Returns:
        One sentence for each thing that is wrong; empty when nothing is.
    """
    calls: dict[str, list[tuple[list[Any], list[Any]]]] = {site.info.id: [] for site in layout.sites}
    problems: list[str] = []
    handles = []
    for site in layout.sites:
        module = submodule(model, site.path)
        if module is None:
            problems.append(f"{site.info.id}: no module at '{site.path}'")
            continue

        def keep(_: nn.Module, args: Any, kwargs: Any, output: Any, site: BoundSite = site) -> None:
            taken = [args[place] if place < len(args) else kwargs.get(name) for place, name in site.streams]
            calls[site.info.id].append((taken, list(output) if isinstance(output, tuple | list) else [output]))

        handles.append(module.register_forward_hook(keep, with_kwargs=True))
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    for site in layout.sites:
        count = len(calls[site.info.id])
        # A norm may serve two streams: it keeps nothing.
        if count != 1 and not (count and site.info.auxiliary) and submodule(model, site.path) is not None:
            problems.append(f"{site.info.id}: called {count} times in one run, not once")
        elif site.streams:
            following = calls.get(_next(site.info.id))
            problems += _stream_problems(site, calls[site.info.id][0], following[0] if following else None)
    return tuple(problems)


def _next(block_id: str) -> str:
    """Id of the block after this one in its stack."""
    stack, position = block_id.rsplit(".", 1)
    return f"{stack}.{int(position) + 1}"


def _stream_problems(
    site: BoundSite, call: tuple[list[Any], list[Any]], following: tuple[list[Any], list[Any]] | None
) -> list[str]:
    taken, returned = call
    if len(returned) != len(taken):
        return [f"{site.info.id}: returns {len(returned)} values and has {len(taken)} streams"]
    problems = []
    for index, (_, name) in enumerate(site.streams):
        before, after = taken[index], returned[index]
        if not isinstance(before, torch.Tensor):
            problems.append(f"{site.info.id}: stream '{name}' is {type(before).__name__}, not a tensor")
        elif after is None:
            continue
        elif not isinstance(after, torch.Tensor) or after.shape != before.shape:
            shape = tuple(after.shape) if isinstance(after, torch.Tensor) else type(after).__name__
            problems.append(
                f"{site.info.id}: stream '{name}' goes in as {tuple(before.shape)} and comes out as {shape}"
            )
        elif following is not None and not _equal(after, following[0][index]):
            problems.append(
                f"{site.info.id}: what it returns as '{name}' is not what the next block takes as '{name}'"
            )
    return problems


def _equal(a: torch.Tensor, b: Any) -> bool:
    return isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
