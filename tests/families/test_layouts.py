"""Every fact in every layout, proved by perturbing a tiny model; the discovered families included."""

import dataclasses
import functools
from functools import partial
from typing import Any

import pytest
import torch
from proof import Tree, flat, noise_like, prove_feeds, record, run
from tiny import TINY_NAMES, tiny_inputs, tiny_model
from torch import nn

from dit_accel.families import resolve_family
from dit_accel.families.base import BoundSite, Layout, SiteSpec
from dit_accel.families.check import check_layout
from dit_accel.families.unet_layout import unet_layout


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


# Their models add to the stream between blocks: hints of a control video, attention to a face.
ADDED_BETWEEN_BLOCKS = ("wan_vace", "wan_animate")


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_dry_run_finds_nothing_wrong(name: str) -> None:
    """Sites exist and are called once; streams go from block to block under their names."""
    model, layout, inputs, _, _ = _case(name)
    problems = check_layout(model, layout, inputs)
    if name in ADDED_BETWEEN_BLOCKS:
        assert {problem.split(": ")[1] for problem in problems} == {
            "what it returns as 'hidden_states' is not what the next block takes as 'hidden_states'"
        }
    else:
        assert problems == ()
    assert any(site.streams for site in layout.sites) or resolve_family(model).layout is unet_layout


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
    if "audio_hidden_states" in inputs:
        other |= {"audio_hidden_states": noise_like(inputs["audio_hidden_states"]), "sigma": other[time]}
    if isinstance(inputs.get("guidance"), torch.Tensor):
        other["guidance"] = inputs["guidance"] * 0.5
    seen_other = record(model, layout, other)
    assert not torch.equal(flat(seen_other["model"][0]), plain)
    for site in layout.graph:
        if site.invariant:
            assert torch.equal(flat(seen[site.id]), flat(seen_other[site.id])), site.id


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_block_adds_to_its_streams(name: str) -> None:
    """What a block keeps, output minus input, gives its output back when it is added to the same input."""
    model, layout, inputs, _, plain = _case(name)
    taken: dict[str, list[torch.Tensor]] = {}

    def note(module: nn.Module, args: Any, kwargs: Any, site: BoundSite) -> None:
        taken[site.info.id] = [kwargs[n] if n in kwargs else args[p] for p, n in site.streams]

    def restore(output: Tree, site_id: str) -> Tree:
        outs = (output,) if isinstance(output, torch.Tensor) else output
        sums = [None if out is None else x + (out - x) for x, out in zip(taken[site_id], outs, strict=True)]
        return sums[0] if isinstance(output, torch.Tensor) else tuple(sums)

    handles = [
        model.get_submodule(site.path).register_forward_pre_hook(partial(note, site=site), with_kwargs=True)
        for site in layout.sites
        if site.streams
    ]
    blocks = [site.info.id for site in layout.sites if site.streams]
    restored = run(model, layout, inputs, {b: (lambda out, _, b=b: restore(out, b)) for b in blocks})
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(restored, plain, rtol=1e-3, atol=1e-3)


def test_a_dry_run_tells_what_is_wrong() -> None:
    model, _, inputs, _, _ = _case("flux")
    family = resolve_family(model)
    double, single = family.stacks
    wrong = dataclasses.replace(
        family,
        stacks=(
            dataclasses.replace(double, streams=double.streams[::-1]),
            dataclasses.replace(single, streams=("hidden_states",), sites=(SiteSpec(path="norm.silu", kind="norm"),)),
        ),
    )
    problems = check_layout(model, wrong.bind(model), inputs)
    assert any("blocks.0: stream 'hidden_states' goes in as" in problem for problem in problems)
    assert any("single.1: returns 2 values and has 1 streams" in problem for problem in problems)
    wan, _, inputs, _, _ = _case("wan")
    twice = dataclasses.replace(
        resolve_family(wan), stacks=(), extras=(SiteSpec(path="condition_embedder.act_fn", kind="x"),)
    )
    assert check_layout(wan, twice.bind(wan), inputs) == ()
    unused = dataclasses.replace(twice, extras=(SiteSpec(path="blocks", kind="x"),))
    assert check_layout(wan, unused.bind(wan), inputs) == ("blocks: called 0 times in one run, not once",)
