"""Plans by limits: the fastest that is faithful enough, the most faithful that is fast enough, or what there is."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_certificates import certified
from tiny_text import tiny_text_pipeline

import dit_accel.session.limits as module
from dit_accel import (
    AccelerationPlan,
    GeneratorSpec,
    QuantizeConfig,
    StaticCacheConfig,
    accelerate_pipeline,
    accelerated,
    is_accelerated,
    load_embedded,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError
from dit_accel.families.targets import find_targets
from dit_accel.machine import cpu_name
from dit_accel.plan.claims import Measured, SpeedClaim
from dit_accel.plan.fingerprint import fingerprint
from dit_accel.plan.plan import PLAN_FILE
from dit_accel.plan.weights import sample_weights
from dit_accel.session.limits import Limits, choose_plan
from dit_accel.session.presets import shipped_plans


@pytest.fixture
def pipe() -> Any:
    return tiny_text_pipeline()


def plan_of(pipe: Any, name: str, n: int, ratio: float, psnr_db: float, **distances: float) -> AccelerationPlan:
    """Certified by made-up numbers."""
    target = find_targets(pipe)[0]
    bare = AccelerationPlan(
        name=name,
        passes=(StaticCacheConfig(schedule=GeneratorSpec("every_n", n=n)),),
        fingerprints=(fingerprint(target),),
    )
    values = {"psnr_db": psnr_db, "ssim": 0.9, **distances}
    return certified(
        bare,
        weights=sample_weights(target.denoiser),
        fidelity={key: Measured(mean=mean, ci95=(mean, mean), worst5=mean) for key, mean in values.items()},
        speed=SpeedClaim(
            device="cpu",
            device_name="a CPU",
            dtype="float32",
            batch_size=4,
            rounds=10,
            denoiser_ratio=ratio + 1,
            denoiser_ci95=(ratio, ratio + 2),
            run_ratio=ratio,
            run_ci95=(ratio, ratio),
        ),
    )


@pytest.fixture
def ships(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> list[AccelerationPlan]:
    found = [
        plan_of(pipe, "mild", 2, 1.8, 60.0, st_lpips=0.001),
        plan_of(pipe, "middle", 3, 2.5, 50.0, st_lpips=0.02),
        plan_of(pipe, "lucky", 4, 2.6, 45.0, st_lpips=0.02),
        plan_of(pipe, "wild", 5, 4.0, 30.0, st_lpips=0.2),
    ]
    calibrated_only = dataclasses.replace(found[3], name="wildest", certificate=None)
    monkeypatch.setattr(module, "shipped_plans", lambda: (*found, calibrated_only))
    return found


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"max_lpips": 0.001}, "mild"),
        ({"max_lpips": 0.0199}, "mild"),
        ({"max_lpips": 0.05}, "lucky"),
        ({"max_lpips": 1}, "wild"),
        ({"min_speedup": 1.0}, "mild"),
        ({"min_speedup": 2.0}, "middle"),
        ({"min_speedup": 2.6}, "lucky"),
        ({"min_speedup": 2.0, "max_lpips": 0.1}, "lucky"),
        ({"min_speedup": 3, "max_lpips": 0.3}, "wild"),
    ],
)
def test_the_fastest_within_or_the_most_faithful(ships: list, pipe: Any, limits: dict[str, float], name: str) -> None:
    accelerate_pipeline(pipe, **limits)
    assert summary(pipe).plan == name and summary(pipe).certified


@pytest.mark.parametrize(("device", "name"), [("a CPU", "middle"), (cpu_name(), "few-bits")])
def test_few_bits_are_chosen_only_where_they_were_timed(
    ships: list, pipe: Any, monkeypatch: pytest.MonkeyPatch, device: str, name: str
) -> None:
    timed = plan_of(pipe, "few-bits", 2, 2.1, 55.0, st_lpips=0.001)
    assert timed.certificate is not None
    speed = timed.certificate.speed.model_copy(update={"device_name": device})
    quantised = certified(
        dataclasses.replace(timed, passes=(QuantizeConfig(bits="w8a8"),), certificate=None),
        weights=timed.certificate.weights, fidelity=timed.certificate.fidelity, speed=speed,
    )  # fmt: skip
    monkeypatch.setattr(module, "shipped_plans", lambda: (*ships, quantised))
    assert choose_plan(Limits(min_speedup=2.0), find_targets(pipe)).name == name


def test_the_context_manager_takes_them_too(ships: list, pipe: Any) -> None:
    with accelerated(pipe, max_lpips=0.05):
        assert summary(pipe).plan == "lucky"
    assert not is_accelerated(pipe)


@pytest.mark.parametrize("limits", [{"max_lpips": 0.0001}, {"min_speedup": 5}, {"max_lpips": 0.01, "min_speedup": 2}])
def test_what_is_reachable_is_said(ships: list, pipe: Any, limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        accelerate_pipeline(pipe, **limits)
    words = str(caught.value)
    assert "no certified plan of this model is within" in words and "1.80x on a CPU at ST-LPIPS 0.0010" in words
    assert words.index("1.80x") < words.index("2.50x") < words.index("4.00x") and not is_accelerated(pipe)


def test_lpips_counts_where_it_was_measured(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both = plan_of(pipe, "both", 2, 2.0, 50.0, st_lpips=0.01, lpips=0.2)
    neither = plan_of(pipe, "neither", 3, 3.0, 40.0)
    monkeypatch.setattr(module, "shipped_plans", lambda: (both, neither))
    targets = find_targets(pipe)
    assert choose_plan(Limits(max_lpips=0.2), targets).name == "both"
    with pytest.raises(ConfigError, match=r"at LPIPS 0.2000; 3.00x on a CPU \(no LPIPS was measured"):
        choose_plan(Limits(max_lpips=0.1), targets)
    assert choose_plan(Limits(min_speedup=3), targets).name == "neither"


def test_other_weights_are_not_certified(ships: list, pipe: Any) -> None:
    with torch.no_grad():
        pipe.transformer.transformer_blocks[0].attn1.to_k.weight.mul_(1.02)
    for limits in ({"max_lpips": 1.0}, {"min_speedup": 1.5}):
        with pytest.raises(ConfigError, match=r"none is certified for these weights\. Measure one: dit-accel certify"):
            accelerate_pipeline(pipe, **limits)


def test_an_unknown_model_gets_theory_for_a_speed_and_advice_for_a_quality(pipe: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"none ships for this model\. Find one: dit-accel calibrate MODEL --max-lpips"
    ):
        accelerate_pipeline(pipe, max_lpips=0.05)
    accelerate_pipeline(pipe, min_speedup=2.5)
    text = str(summary(pipe))
    assert "plan 'theory-2.5x' (not certified): trajectory" in text
    assert "no quality was measured" in text and "dit-accel certify MODEL --speedup 2.5" in text


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"max_lpips": -0.1}, "at least 0"), ({"min_speedup": 0.5}, "at least 1"), ({"max_lpips": float("nan")}, "nan")],
)
def test_limits_that_nothing_could_keep(pipe: Any, limits: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        accelerate_pipeline(pipe, **limits)


def test_a_plan_and_limits_exclude_each_other(pipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"a plan and limits \(max_lpips=0.05, min_speedup=2\) exclude each other"):
        accelerate_pipeline(pipe, "fast", max_lpips=0.05, min_speedup=2)
    assert not is_accelerated(pipe)


def test_what_ships_is_chosen_by_its_certificate() -> None:
    pipe = load_embedded("emoji-flux")
    own = tuple(fingerprint(target) for target in find_targets(pipe))
    certificates = [plan.certificate for plan in shipped_plans() if plan.fingerprints == own and plan.is_certified]
    accelerate_pipeline(pipe, max_lpips=0.05)
    chosen = summary(pipe)
    assert chosen.certified and "9 of 10 new prompts like these stay above PSNR" in str(chosen)
    best = max(c.speed.run_ratio for c in certificates if c.fidelity["st_lpips"].mean <= 0.05)
    assert f"whole run {best:.2f}x" in str(chosen)


def test_a_plan_that_saves_memory_alone_is_never_chosen(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = plan_of(pipe, "small", 2, 1.02, 70.0, st_lpips=0.0001)
    speed = small.certificate.speed.model_copy(update={"run_ci95": (0.97, 1.06)})
    small = dataclasses.replace(small, certificate=small.certificate.model_copy(update={"speed": speed}))
    quick = plan_of(pipe, "quick", 3, 1.5, 40.0, st_lpips=0.01)
    monkeypatch.setattr(module, "shipped_plans", lambda: (small, quick))
    targets = find_targets(pipe)
    assert choose_plan(Limits(min_speedup=1.0), targets).name == "quick"
    assert choose_plan(Limits(max_lpips=0.1), targets).name == "quick"
    with pytest.raises(ConfigError, match="no certified plan of this model is within"):
        choose_plan(Limits(max_lpips=0.001), targets)


@pytest.fixture
def own(ships: list[AccelerationPlan], pipe: Any, tmp_path: Path) -> Path:
    """A folder as calibrating and certifying leave it: a better plan, one that is not certified, one cut short."""
    plan_of(pipe, "mine", 3, 3.0, 55.0, st_lpips=0.002).save_pretrained(tmp_path / "certify" / "tiny-mine")
    dataclasses.replace(ships[0], name="bare", certificate=None).save_pretrained(tmp_path / "calibrate" / "2-of-5")
    (tmp_path / "calibrate" / "cut").mkdir()
    (tmp_path / "calibrate" / "cut" / PLAN_FILE).write_text('{"format": "dit-accel/pl')
    return tmp_path


def test_plans_of_ones_own_are_chosen_from_too(own: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate_pipeline(pipe, max_lpips=0.01)
    assert summary(pipe).plan == "mild"
    accelerate_pipeline(pipe, max_lpips=0.01, plans=own / "certify")
    assert summary(pipe).plan == "mine" and summary(pipe).certified
    accelerate_pipeline(pipe, min_speedup=3.5, plans=[str(own / "certify")])
    assert summary(pipe).plan == "wild"  # what ships is there still
    monkeypatch.setenv("DIT_ACCEL_PLANS", f"{own / 'certify'}{os.pathsep}{own / 'calibrate'}")
    with pytest.warns(AccelerationWarning, match=r"left out a plan that cannot be read: .*cut"):
        accelerate_pipeline(pipe, max_lpips=0.01)
    assert summary(pipe).plan == "mine"
    with accelerated(pipe, max_lpips=0.01, plans=own / "certify"):
        assert summary(pipe).plan == "mine"


def test_what_is_reachable_counts_ones_own(own: Path, pipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"no certified plan.*2.60x.*3.00x on a CPU at ST-LPIPS 0.0020.*4.00x"):
        accelerate_pipeline(pipe, max_lpips=0.0001, plans=own / "certify")


@pytest.mark.filterwarnings("ignore::dit_accel.errors.AccelerationWarning")
def test_own_plans_without_a_certificate_say_how_to_get_one(
    own: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "shipped_plans", tuple)
    for limits in ({"max_lpips": 0.1}, {"min_speedup": 2.0}):
        with pytest.raises(ConfigError, match=r"1 of your own.*dit-accel certify MODEL --plan .*2-of-5"):
            accelerate_pipeline(pipe, plans=own / "calibrate", **limits)


def test_plans_without_limits_or_from_nowhere_are_refused(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'plans' is what limits choose from"):
        accelerate_pipeline(pipe, plans=tmp_path)
    with pytest.raises(ConfigError, match=r"'plans' names a folder of plans that is not there: .*nowhere"):
        accelerate_pipeline(pipe, max_lpips=0.1, plans=tmp_path / "nowhere")
    assert not is_accelerated(pipe)
