"""Every fact in every layout, proved by perturbing a tiny model; the discovered families included."""

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from tiny import TINY_NAMES, tiny_inputs, tiny_model
from torch import nn

from dit_accel.families import Family, SiteSpec, Stack, resolve_family
from dit_accel.families.check import check_family, check_layout
from dit_accel.families.proofs import (
    Trial,
    feeds_faults,
    grid_faults,
    invariant_faults,
    matter_faults,
    repeat_faults,
    stream_faults,
)
from dit_accel.families.unet_layout import unet_layout


@functools.cache
def _trial(name: str) -> tuple[Trial, Family]:
    model = tiny_model(name)
    family = resolve_family(model)
    return Trial(model, family.bind(model), tiny_inputs(name, model, seed=3)), family


# A control video's hints, attention to a face.
ADDED_BETWEEN_BLOCKS = ("wan_vace", "wan_animate")


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_dry_run_finds_nothing_wrong(name: str) -> None:
    """Sites exist and are called once; streams go from block to block under their names."""
    trial, family = _trial(name)
    joined = name not in ADDED_BETWEEN_BLOCKS
    assert check_layout(trial.model, trial.layout, trial.inputs, joined=joined) == ()
    assert repeat_faults(trial) == []
    assert any(site.streams for site in trial.layout.sites) or family.layout is unet_layout


@pytest.mark.parametrize("name", TINY_NAMES)
def test_every_site_matters(name: str) -> None:
    trial, _ = _trial(name)
    assert [fault for site in trial.layout.sites for fault in matter_faults(trial, site)] == []


@pytest.mark.parametrize("name", TINY_NAMES)
def test_feeds_name_every_reader(name: str) -> None:
    trial, _ = _trial(name)
    sites = [site for site in trial.layout.sites if site.info.feeds]
    assert [fault for site in sites for fault in feeds_faults(trial, site)] == []


@pytest.mark.parametrize("name", TINY_NAMES)
def test_invariant_sites_see_neither_latent_nor_time(name: str) -> None:
    trial, family = _trial(name)
    assert invariant_faults(trial, family.conditioning) == []


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_block_adds_to_its_streams(name: str) -> None:
    trial, _ = _trial(name)
    assert stream_faults(trial) == []


@pytest.mark.parametrize("name", TINY_NAMES)
def test_blocks_see_as_many_tokens_as_the_grid_has(name: str) -> None:
    trial, family = _trial(name)
    assert grid_faults(trial, family) == []


def test_a_dry_run_tells_what_is_wrong() -> None:
    trial, family = _trial("flux")
    double, single = family.stacks
    wrong = dataclasses.replace(
        family,
        stacks=(
            dataclasses.replace(double, streams=double.streams[::-1]),
            dataclasses.replace(single, streams=("hidden_states",), sites=(SiteSpec(path="norm.silu", kind="norm"),)),
        ),
    )
    problems = check_layout(trial.model, wrong.bind(trial.model), trial.inputs)
    assert any("blocks.0: stream 'hidden_states' goes in as" in problem for problem in problems)
    assert any("single.1: returns 2 values and has 1 streams" in problem for problem in problems)
    found = check_family(trial.model, wrong, trial.inputs)
    assert found and set(found) <= set(problems)
    wan, family = _trial("wan")
    twice = dataclasses.replace(family, stacks=(), extras=(SiteSpec(path="condition_embedder.act_fn", kind="x"),))
    assert check_layout(wan.model, twice.bind(wan.model), wan.inputs) == ()
    unused = dataclasses.replace(twice, extras=(SiteSpec(path="blocks", kind="x"),))
    assert check_layout(wan.model, unused.bind(wan.model), wan.inputs) == (
        "blocks: called 0 times in one run, not once",
    )
    hollow = SiteSpec(path="norm1", kind="norm", feeds=("attn",), auxiliary=True)  # it returns the gates too
    wrong = _with_sites(_trial("flux")[1], lambda specs: (hollow, *specs))
    problems = check_layout(trial.model, wrong.bind(trial.model), trial.inputs)
    assert problems[0].startswith("blocks.0.norm1: cannot be `auxiliary`: it does not return one tensor")


def _with_sites(family: Family, change: Callable[[tuple[SiteSpec, ...]], tuple[SiteSpec, ...]]) -> Family:
    first, *rest = family.stacks
    return dataclasses.replace(family, stacks=(dataclasses.replace(first, sites=change(first.sites)), *rest))


def _with_fact(family: Family, path: str, **facts: object) -> Family:
    def change(specs: tuple[SiteSpec, ...]) -> tuple[SiteSpec, ...]:
        return tuple(dataclasses.replace(spec, **facts) if spec.path == path else spec for spec in specs)

    return _with_sites(family, change)


@pytest.mark.parametrize(
    ("name", "path", "facts", "fault"),
    [
        ("sd3", "norm1.norm", {"feeds": ("attn",)}, "has more readers than its `feeds` (blocks.0.attn)"),
        (
            "flux",
            "norm2",
            {"feeds": ("ff", "ff_context")},
            "is not read by blocks.0.ff_context, which its `feeds` name",
        ),
        ("pixart", "ff", {"feeds": ("attn2",)}, "is not read by blocks.0.attn2, which its `feeds` name"),
        ("pixart", "ff", {"invariant": True}, "is called `invariant`, but sees the latents or the time"),
    ],
    ids=["a reader is missing", "a reader is made up", "not read at all", "not invariant"],
)
def test_a_wrong_fact_of_a_site_is_found(name: str, path: str, facts: dict[str, object], fault: str) -> None:
    trial, family = _trial(name)
    faults = check_family(trial.model, _with_fact(family, path, **facts), trial.inputs)
    assert f"blocks.0.{path}: {fault}" in faults


class _Swapping(nn.Module):
    """A one-block denoiser whose second stream comes out as what the first one was."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_SwappingBlock()])

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor]:
        a, b = self.blocks[0](x, text)
        return (a * t + b,)


class _SwappingBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return text + self.attn(x), x


def _swapping_family(streams: tuple[str, ...], *, patch: int = 1) -> Family:
    sites = (SiteSpec(path="attn", kind="self_attn"),)
    return Family(
        name="swapping",
        model_classes=("_Swapping",),
        stacks=(Stack(path="blocks", alias="blocks", streams=streams, sites=sites),),
        guidance="batched",
        conditioning=("text",),
        text="cross",
        latent_layout="BNC",
        patch=lambda config: (1, patch, patch),
        token_grid=lambda model, call: (1, 3 * patch, 1),
    )


def test_wrong_streams_are_found() -> None:
    model, inputs = _Swapping().eval(), {"x": torch.randn(1, 3, 4), "t": torch.ones(1), "text": torch.randn(1, 3, 4)}
    faults = check_family(model, _swapping_family(("x", "text")), inputs)
    assert faults[:2] == tuple(
        f"blocks.0: what it returns as '{name}' is not its '{name}' plus something" for name in ("x", "text")
    )
    assert check_family(model, _swapping_family(("text", "x")), inputs) == ()
    wrong = check_family(model, _swapping_family(("text", "x"), patch=2), inputs)
    assert wrong == ("token grid 1×6×1 is 6 tokens (6 with text), but the blocks see 3",)


class _Hinted(nn.Module):
    """Adds something to the stream between its blocks, as models with a control do."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Residual(), _Residual()])

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor]:
        for block in self.blocks:
            x = block(x) + text
        return (x * t,)


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn(x)


def test_what_is_added_between_blocks_is_no_fault() -> None:
    model, inputs = _Hinted().eval(), {"x": torch.randn(1, 3, 4), "t": torch.ones(1), "text": torch.randn(1, 3, 4)}
    family = _swapping_family(("x",))
    assert check_family(model, family, inputs) == ()
    assert check_layout(model, family.bind(model), inputs) == (
        "blocks.0: what it returns as 'x' is not what the next block takes as 'x'",
    )


def test_a_model_that_cannot_be_proven_says_so() -> None:
    trial, family = _trial("pixart")
    endless = {**trial.inputs, "hidden_states": trial.inputs["hidden_states"] * torch.inf}
    assert "not finite" in check_family(trial.model, family, endless)[0]
    model = tiny_model("pixart")
    model.transformer_blocks[0].ff.net[1] = nn.Dropout(0.5).train()
    assert check_family(model, family, trial.inputs) == (
        "two equal calls answer differently, so nothing can be proven (dropout? a cache?)",
    )


@pytest.mark.parametrize("name", ["pixart", "sd"])
def test_a_check_leaves_the_model_as_it_was(name: str) -> None:
    model = tiny_model(name)
    family, inputs = resolve_family(model), tiny_inputs(name, model)
    with torch.no_grad():
        before = model(**inputs)[0]
    given = {key: value.clone() for key, value in inputs.items() if isinstance(value, torch.Tensor)}
    done = []
    assert check_family(model, family, inputs, track=lambda proofs: (done.append(p) or p for p in proofs)) == ()
    assert len(done) > len(family.bind(model).sites)
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], before)
    assert all(torch.equal(inputs[key], value) for key, value in given.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
