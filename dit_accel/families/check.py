"""Checks a family against a live model: use it on a family of your own before trusting it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import BoundSite, Family, Layout, submodule
from dit_accel.families.proofs import (
    Trial,
    feeds_faults,
    grid_faults,
    invariant_faults,
    matter_faults,
    repeat_faults,
    stream_faults,
)

Proof = Callable[[], list[str]]


def check_family(
    model: nn.Module,
    family: Family,
    inputs: Mapping[str, Any],
    *,
    track: Callable[[Sequence[Proof]], Iterable[Proof]] = iter,
) -> tuple[str, ...]:
    """Prove every fact of a family on a live model, or say which one is wrong.

    A dry run first (:func:`check_layout`); then, by perturbation, that ``feeds`` name every reader, that ``invariant``
    sites are, that blocks add to their streams, that every site matters, and that the blocks see as many tokens as
    the call's token grid has. The model runs about twice per site, without gradients, and is left as it was.

    Args:
        model: The denoiser, without accelerating passes.
        family: Its family.
        inputs: Keyword arguments of one call, the latents first; a small one will do.
        track: Takes the proofs and gives them back one by one: where a progress bar goes.

    Returns:
        One sentence for each thing that is wrong; empty when nothing is.
    """
    layout = family.bind(model)
    trial = Trial(model, layout, inputs)
    faults = repeat_faults(trial) or check_layout(model, layout, inputs, joined=False)
    if faults:
        return tuple(faults)
    proofs: list[Proof] = [
        partial(stream_faults, trial),
        partial(grid_faults, trial, family),
        partial(invariant_faults, trial, family.conditioning),
    ]
    for site in layout.sites:
        if site.info.feeds:
            proofs.append(partial(feeds_faults, trial, site))
        proofs.append(partial(matter_faults, trial, site))
    return tuple(fault for proof in track(proofs) for fault in proof())


def check_layout(
    model: nn.Module, layout: Layout, inputs: Mapping[str, Any], *, joined: bool = True
) -> tuple[str, ...]:
    """Run the model once and compare what its modules do with what the layout says of them.

    Checked: every site exists and is called exactly once; a block returns as many values as it has streams, of the
    shapes of the arguments they are named after; a norm that may be skipped returns the shape that it takes. What one
    run cannot show is for :func:`check_family`.

    Args:
        model: The denoiser; it is run once without gradients.
        layout: What ``Family.bind`` found.
        inputs: Keyword arguments of one call.
        joined: Also check that each returned stream is what the next block takes under that name. That is so unless
            the model adds something in between (hints of a control); :func:`check_family` proves the names without it.

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
            given = [args[place] if place < len(args) else kwargs.get(name) for place, name in site.streams]
            taken = given or [*args, *kwargs.values()][:1]
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
        elif count and site.info.auxiliary:
            problems += [p for call in calls[site.info.id] for p in _stand_in_problems(site, call)]
        elif site.streams:
            following = calls.get(_next(site.info.id)) if joined else None
            problems += _stream_problems(site, calls[site.info.id][0], following[0] if following else None)
    return tuple(problems)


def _next(block_id: str) -> str:
    """Id of the block after this one in its stack."""
    stack, position = block_id.rsplit(".", 1)
    return f"{stack}.{int(position) + 1}"


def _stand_in_problems(site: BoundSite, call: tuple[list[Any], list[Any]]) -> list[str]:
    """A skipped norm hands on what it was given, so that must look like what it returns."""
    taken, returned = call
    if all(isinstance(value, torch.Tensor) for value in (*taken, *returned)):
        shapes = [tuple(value.shape) for value in (*taken, *returned)]
        if len(shapes) == 2 and shapes[0] == shapes[1]:
            return []
    return [f"{site.info.id}: cannot be `auxiliary`: it does not return one tensor of the shape of its first argument"]


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
        elif following is not None and not _continues(after, following[0][index]):
            problems.append(
                f"{site.info.id}: what it returns as '{name}' is not what the next block takes as '{name}'"
            )
    return problems


def _continues(after: torch.Tensor, taken: Any) -> bool:
    """Whether a block takes what the one before returned; in between, part of it may be replaced (HiDream's text)."""
    if not isinstance(taken, torch.Tensor) or taken.shape != after.shape:
        return False
    return bool((after == taken).all(dim=-1).any())
