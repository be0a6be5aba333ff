"""Every fact in every layout, proved by perturbing a tiny model; the discovered families included."""

import copy
import functools
from typing import Any

import pytest
import torch
from proof import Tree, flat, noise_like, prove_feeds, record, run
from tiny import TINY_NAMES, tiny_inputs, tiny_model
from torch import nn

from dit_accel.families import resolve_family
from dit_accel.families.base import Layout, submodule


@functools.cache
def _case(name: str) -> tuple[nn.Module, Layout, dict[str, Any], dict[str, list[Tree]], torch.Tensor]:
    model = tiny_model(name)
    layout = resolve_family(model).bind(model)
    inputs = tiny_inputs(name, model, seed=3)
    seen = record(model, layout, inputs)
    return model, layout, inputs, seen, flat(seen["model"][0])


def _influences(name: str, site_id: str) -> bool:
    model, layout, inputs, _, plain = _case(name)
    return not torch.equal(run(model, layout, inputs, {site_id: lambda out, _: noise_like(out)}), plain)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_every_site_exists_and_is_called_once(name: str) -> None:
    model, layout, _, seen, _ = _case(name)
    for site in layout.sites:
        assert submodule(model, site.path) is not None, site.path
        # A norm may serve two streams: it keeps nothing, so it may be called twice.
        assert len(seen[site.info.id]) == 1 or site.info.auxiliary, site.info.id


@pytest.mark.parametrize("name", TINY_NAMES)
def test_every_site_matters(name: str) -> None:
    """Only the text side of a last block may be without influence: nobody reads that stream any more."""
    _, layout, _, _, _ = _case(name)
    last = layout.graph.num_blocks - 1
    for site in layout.graph:
        if not _influences(name, site.id):
            assert site.block == last, site.id
            assert site.kind == "ff_context" or site.auxiliary, site.id


@pytest.mark.parametrize("name", TINY_NAMES)
def test_feeds_name_every_reader(name: str) -> None:
    model, layout, inputs, seen, _ = _case(name)
    for site in layout.sites:
        if site.info.feeds:
            prove_feeds(model, layout, inputs, seen, site)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_invariant_sites_see_neither_latent_nor_time(name: str) -> None:
    model, layout, inputs, seen, plain = _case(name)
    other = dict(inputs)
    latent = next(key for key in ("hidden_states", "sample", "x") if key in inputs)
    time = next(key for key in ("timestep", "t") if key in inputs)
    other[latent] = noise_like(inputs[latent])
    other[time] = inputs[time] * 0 + (0.25 if inputs[time].is_floating_point() else 123)
    if isinstance(inputs.get("guidance"), torch.Tensor):
        other["guidance"] = inputs["guidance"] * 0.5
    seen_other = record(model, layout, other)
    assert not torch.equal(flat(seen_other["model"][0]), plain)
    for site in layout.graph:
        if site.invariant:
            assert torch.equal(flat(seen[site.id]), flat(seen_other[site.id])), site.id


@pytest.mark.parametrize("name", TINY_NAMES)
def test_streams_are_named_in_order(name: str) -> None:
    """Each returned stream is what the next block of the stack takes under that name, and input + change = output."""
    model, layout, inputs, _, _ = _case(name)
    calls: dict[str, tuple[list[Any], Any]] = {}
    handles = []
    blocks = [site for site in layout.sites if site.streams]
    for site in blocks:
        module = submodule(model, site.path)
        assert module is not None

        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any, site: Any = site) -> None:
            ins = [kwargs[n] if n in kwargs else args[p] for p, n in site.streams]
            calls[site.path] = (copy.copy(ins), output)

        handles.append(module.register_forward_hook(keep, with_kwargs=True))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()

    for site in blocks:
        ins, output = calls[site.path]
        outs = [output] if isinstance(output, torch.Tensor) else list(output)
        assert len(outs) == len(ins)
        for before, after in zip(ins, outs, strict=True):
            if after is not None:
                torch.testing.assert_close(before + (after - before), after)
        stack, position = site.path.rsplit(".", 1)
        following = calls.get(f"{stack}.{int(position) + 1}")
        if following is not None:
            for (_, stream), after, taken in zip(site.streams, outs, following[0], strict=True):
                assert torch.equal(after, taken), f"{site.path}: {stream}"
