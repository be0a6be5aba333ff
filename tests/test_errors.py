"""Bad input: one clear error that says what was found, what was wanted, what to do; the pipeline stays as it was."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from refusals import refused
from tiny import tiny_pipeline

from dit_accel import GeneratorSpec, StaticCacheConfig, accelerate_pipeline
from dit_accel.errors import (
    AccelerationWarning,
    ConfigError,
    DitAccelError,
    IrreversibleError,
    MissingDependencyError,
    PlanMismatchError,
    UnsupportedModelError,
)
from dit_accel.passes.base import PASSES, Pass
from dit_accel.plan.config import PassConfig
from dit_accel.plan.plan import PLAN_FILE
from dit_accel.registry import Registry
from dit_accel.runtime.sockets import DECIDES

EVERY_2 = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        pytest.param(
            "fsat", ("unknown preset 'fsat'", "Did you mean 'fast'?", "lossless, light, balanced", "hub id"), id="typo"
        ),
        pytest.param("FAST", ("unknown preset 'FAST'", "Did you mean 'fast'?"), id="upper-case"),
        pytest.param("", ("unknown preset ''", "Presets: lossless"), id="empty"),
        pytest.param(7, ("a plan is a preset name, a plan, a path or pass configs; got int",), id="number"),
        pytest.param(["fast"], ("got list of str",), id="list-of-names"),
        pytest.param([EVERY_2, EVERY_2], ("'static_cache' is given 2 times", "each pass once"), id="twice"),
        pytest.param(Path("/nowhere"), ("no plan at '/nowhere'", PLAN_FILE, "hub id"), id="no-folder"),
        pytest.param("plans/none.json", ("no plan at 'plans/none.json'",), id="no-file"),
    ],
)
def test_what_is_no_plan(plan: Any, words: tuple[str, ...]) -> None:
    refused(plan, ConfigError, *words)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(
            lambda: StaticCacheConfig(schedule="fast"), ("'schedule' must be a Schedule", "got str"), id="type"
        ),  # type: ignore[arg-type]
        pytest.param(
            lambda: StaticCacheConfig(schedule=GeneratorSpec("every_n"), invariants="no"),  # type: ignore[arg-type]
            ("'invariants' must be true or false, got 'no'",),
            id="text-for-bool",
        ),
    ],
)
def test_config_values(make: Callable[[], Any], words: tuple[str, ...]) -> None:
    refused(make, ConfigError, *words)


class NoDenoiser(diffusers.DiffusionPipeline):
    def __init__(self, vae: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(vae=vae, scheduler=scheduler)


def test_pipelines_without_a_denoiser() -> None:
    whole = tiny_pipeline("pixart")
    pipe = NoDenoiser(whole.vae, whole.scheduler)
    with pytest.raises(UnsupportedModelError, match=r"NoDenoiser has no denoiser to accelerate .*found vae: Autoenc"):
        accelerate_pipeline(pipe, "fast")
    for thing in (object(), SimpleNamespace(), "pipe", None):
        with pytest.raises(UnsupportedModelError, match="has no denoiser"):
            accelerate_pipeline(thing, "fast")
    with pytest.raises(UnsupportedModelError, match=r"register_family"):
        accelerate_pipeline(torch.nn.Linear(2, 2), "fast", scheduler=whole.scheduler)


def test_conflicts_and_obstacles_come_from_the_passes() -> None:
    class Other(PassConfig):
        type_name = "other"

    plain = Pass(config=Other, summary="", phase="modules", example=Other, apply=lambda runtime, config: None)
    conflicting = dataclasses.replace(plain, conflicts={"static_cache": "both own the attention"})
    with PASSES.temporarily("other", conflicting):
        refused([EVERY_2, Other()], ConfigError, "'other' and 'static_cache' cannot be combined: both own")
    claiming = dataclasses.replace(plain, claims=frozenset((DECIDES,)))
    with PASSES.temporarily("other", claiming):
        refused([EVERY_2, Other()], ConfigError, "'other' and 'static_cache' cannot be combined: both want to be the")
    with PASSES.temporarily("other", dataclasses.replace(plain, obstacles=lambda t, c: ["no GPU", "no luck"])):
        refused([Other()], UnsupportedModelError, "'other' cannot act on 'transformer'", "no GPU; no luck")


def test_kinds_of_errors() -> None:
    for kind, also in [
        (ConfigError, ValueError),
        (UnsupportedModelError, TypeError),
        (MissingDependencyError, ImportError),
        (PlanMismatchError, ValueError),
        (IrreversibleError, RuntimeError),
    ]:
        assert issubclass(kind, DitAccelError) and issubclass(kind, also)
    assert issubclass(AccelerationWarning, UserWarning)
    error = MissingDependencyError.for_extra("torchao", "quant", "Quantization")
    assert str(error) == "Quantization needs 'torchao', which is not installed: pip install 'dit-accel[quant]'"


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    from dit_accel.evaluation.metrics import frechet

    native = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torchmetrics"):
            raise ImportError(name)
        return native(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    function = next(value for value in vars(frechet).values() if "torchmetrics" in str(getattr(value, "__doc__", "")))
    with pytest.raises(MissingDependencyError, match=r"needs 'torchmetrics'.*pip install 'dit-accel\[eval\]'"):
        function(torch.zeros(4, 3), torch.zeros(4, 3))


def test_registries_name_the_nearest_and_refuse_a_second_value() -> None:
    registry: Registry[int] = Registry("colour")
    registry.register("green")(1)
    with pytest.raises(ConfigError, match=r"unknown colour 'gren'\. Did you mean 'green'\? Known: green\."):
        registry.get("gren")
    with pytest.raises(ConfigError, match="colour 'green' is already registered"):
        registry.register("green")(2)
    assert registry.names("g*") == tuple(registry) == ("green",) and "green" in registry
