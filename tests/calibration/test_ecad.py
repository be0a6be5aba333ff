"""ECAD's setting: the genome and its operators as published, the search on objectives whose front is known."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_pipeline

from dit_accel import load_embedded
from dit_accel.calibration import ecad_judges
from dit_accel.calibration.ecad import calibrate_ecad
from dit_accel.calibration.ecad_genome import (
    bits_of,
    canonical,
    crossed,
    first_population,
    mutated,
    schedule_of,
    sites_of,
)
from dit_accel.errors import ConfigError
from dit_accel.pipelines.generation import GenerationSettings
from dit_accel.schedules import GeneratorSpec, SiteGraph, SiteInfo


def pixart_xl() -> SiteGraph:
    sites = [SiteInfo(id="model", kind="model")]
    for block in range(28):
        for name, kind in (("attn1", "self_attn"), ("attn2", "cross_attn"), ("ff", "ff")):
            sites.append(SiteInfo(id=f"blocks.{block}.{name}", kind=kind, block=block, parent="model"))
    return SiteGraph(tuple(sites))


def test_the_genome_is_that_of_the_paper() -> None:
    """1,680 bits for PixArt-alpha, step by step, block by block; 72 to begin with, the uncached first."""
    graph = pixart_xl()
    sites = sites_of(graph)
    first = first_population(graph, 20)
    assert len(first) == len({*first}) == 72 and all(first[0])
    assert {len(bits) for bits in first} == {20 * 28 * 3} and sites[:4] == (
        "blocks.0.attn1", "blocks.0.attn2", "blocks.0.ff", "blocks.1.attn1",
    )  # fmt: skip
    fora = GeneratorSpec("every_n", n=3).build(graph, 20)
    assert bits_of(fora, sites) in first and schedule_of(bits_of(fora, sites), sites) == fora
    assert all(all(bits[:84]) for bits in first)
    assert first == first_population(graph, 20)


def test_few_bits_flip_where_the_share_of_children_is_meant() -> None:
    """As pymoo has it: one child in twenty changes, by about one bit; and 5 % of bits where that is asked for."""
    rng = random.Random(0)
    bits = (True,) * 1680
    flips = [1680 - sum(mutated(rng, bits)) for _ in range(4000)]
    changed = sum(flip > 0 for flip in flips) / len(flips)
    assert 0.02 < changed < 0.045 and 0.03 < sum(flips) / len(flips) < 0.08
    many = [1680 - sum(mutated(rng, bits, mutated_frac=1.0, flipped_frac=0.05)) for _ in range(50)]
    assert 70 < sum(many) / 50 < 98


def test_crossover_swaps_between_its_cuts() -> None:
    rng = random.Random(0)
    one, other = crossed(rng, (True,) * 100, (False,) * 100)
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert sum(a != b for a, b in itertools.pairwise(one)) == 4
    assert canonical((False,) * 6, 2) == (True, True, False, False, False, False)


@pytest.fixture(scope="module")
def pixart() -> Any:
    pipe = load_embedded("emoji-pixart")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def searched(pipe: Any, folder: Path, **more: Any) -> Any:
    fixed = {"num_prompts": 1, "seeds_each": 2, "population": 6, "generations": 2, "mutated_frac": 1.0}
    settings = GenerationSettings(num_inference_steps=4)
    return calibrate_ecad(pipe, folder, model="emoji-pixart", settings=settings, **{**fixed, **more})


def test_stopped_and_called_again_ends_as_if_never_stopped(
    pixart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a judge that looks at the pictures; what the front says of a plan's cost is what a run of it computes."""
    pytest.importorskip("deap")

    class Red:
        name, unit, model = "redness", "share", "none"

        def unknown(self, texts: Any) -> tuple[str, ...]:
            return ()

        def scores(self, images: torch.Tensor, texts: Any) -> tuple[float, ...]:
            return tuple(images[:, 0].mean(dim=(1, 2)).tolist())

    monkeypatch.setattr(ecad_judges, "load_judge", lambda name, weights: Red())

    class Stopped(Exception):
        pass

    def stop(what: str, left_s: float, found: Any) -> None:
        if len(found.points) == 8:
            raise Stopped

    with pytest.raises(Stopped):
        searched(pixart, tmp_path / "parts", judge="redness", on_progress=stop)
    parts = searched(pixart, tmp_path / "parts", judge="redness")
    again = searched(pixart, tmp_path / "parts", judge="redness")
    assert parts.points == again.points and parts.generations == 2
    assert len({point.bits for point in parts.points}) == len(parts.points) > 6
    assert parts.front[-1].score == max(point.score for point in parts.points)
    assert all(a.macs < b.macs for a, b in itertools.pairwise(parts.front))
    cheapest = parts.front[0]
    assert cheapest.macs < parts.points[0].macs
    (cache,) = parts.plan(cheapest).passes
    assert cache.schedule == schedule_of(cheapest.bits, parts.sites)
    with pytest.raises(ConfigError, match="an ECAD search of something else"):
        searched(pixart, tmp_path / "parts", judge="redness", seed=3)


def test_what_it_is_not_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no judge 'nobody'"):
        calibrate_ecad(tiny_pipeline("pixart"), tmp_path, model="tiny", judge="nobody")
    with pytest.raises(ConfigError, match="for pictures"):
        calibrate_ecad(tiny_pipeline("wan"), tmp_path, model="tiny")
