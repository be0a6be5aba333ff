"""The check-up reports what is there, and says what it does not know."""

import dataclasses
import json
from typing import Any

import diffusers
import pytest
import torch
from tiny import TINY_PIPELINE_NAMES, tiny_call, tiny_model, tiny_pipeline
from torch import nn

from dit_accel.doctor.report import DenoiserReport, doctor_report
from dit_accel.doctor.scheduler_facts import scheduler_facts
from dit_accel.embedded import load_embedded
from dit_accel.errors import UnsupportedModelError
from dit_accel.families import register_family
from dit_accel.families.catalog import unregister_family
from dit_accel.families.mochi import MOCHI

DISCOVERED = ("aura_flow",)


def _one(pipe: Any, **options: Any) -> DenoiserReport:
    (denoiser,) = doctor_report(pipe, **options).denoisers
    return denoiser


@pytest.mark.parametrize("name", TINY_PIPELINE_NAMES)
def test_every_pipeline_is_examined_and_left_alone(name: str) -> None:
    pipe = tiny_pipeline(name)
    px = 512 if name.startswith("qwen_image_edit") else 64  # its tiny VAE scales by 64
    small = {"height_px": px, "width_px": px, "num_frames": 9} if name != "dit" else {}
    report = doctor_report(pipe, {"anything": lambda target: []}, **small)
    assert json.loads(json.dumps(report.to_dict()))["pipeline_class"] == type(pipe).__name__
    assert len(report.denoisers) == (2 if name == "wan22" else 1)
    assert report.scheduler is not None and report.scheduler.evaluations == 20
    for denoiser in report.denoisers:
        assert denoiser.problem is None and denoiser.num_blocks > 0 and denoiser.sites
        assert denoiser.discovered == (name in DISCOVERED)
        assert denoiser.state == ()
        assert denoiser.obstacles == {"anything": []}
        assert denoiser.cost is not None, denoiser.cost_problem
        assert sum(denoiser.cost.share_frac.values()) == pytest.approx(1)
        assert denoiser.cost.total > denoiser.cost.linear > 0
    if name in ("pixart", "wan22"):
        first = pipe(**tiny_call(name))[0]
        assert torch.equal(first, tiny_pipeline(name)(**tiny_call(name))[0])


def test_pixart_in_numbers() -> None:
    denoiser = _one(tiny_pipeline("pixart"))
    assert denoiser.family == "pixart"
    assert denoiser.num_blocks == 3
    assert denoiser.sites == {"model": 1, "text": 7, "block": 3, "self_attn": 3, "cross_attn": 3, "ff": 3}
    assert (denoiser.num_invariant, denoiser.num_auxiliary) == (7, 6)
    assert denoiser.size_px == (64, 64)
    assert (denoiser.grid, denoiser.num_tokens) == ((1, 4, 4), 16)
    assert denoiser.guidance == "batched"


def test_size_can_be_asked_for() -> None:
    denoiser = _one(tiny_pipeline("wan"), height_px=32, width_px=64, num_frames=9)
    assert denoiser.grid == (3, 2, 4)
    assert denoiser.num_frames == 9


def test_reasons_of_passes_are_reported() -> None:
    denoiser = _one(tiny_model("pixart"), checks={"a": lambda t: [f"no {t.family.name}"], "b": lambda t: []})
    assert denoiser.name == "denoiser"
    assert denoiser.obstacles == {"a": ["no pixart"], "b": []}


def test_a_denoiser_that_is_not_understood_is_in_the_report() -> None:
    class Odd:
        components = {"unet": nn.Linear(2, 2)}  # noqa: RUF012
        scheduler = None

    denoiser = _one(Odd())
    assert denoiser.problem is not None and "register_family" in denoiser.problem
    with pytest.raises(UnsupportedModelError, match="no denoiser"):
        doctor_report(object())


def test_a_size_that_does_not_fit_is_a_reason_not_a_crash() -> None:
    denoiser = _one(tiny_pipeline("sd3"), height_px=4096)
    assert denoiser.cost is None
    assert denoiser.cost_problem is not None and "pos_embed_max_size" in denoiser.cost_problem


@pytest.mark.parametrize(
    ("scheduler", "evaluations", "repeats"),
    [
        (diffusers.DDIMScheduler(), 20, False),
        (diffusers.DPMSolverMultistepScheduler(), 20, False),
        (diffusers.PNDMScheduler(skip_prk_steps=True), 21, True),
        (diffusers.HeunDiscreteScheduler(), 39, True),
        (diffusers.KDPM2DiscreteScheduler(), 39, False),
        (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 20, False),
        (diffusers.UniPCMultistepScheduler(), 20, False),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "set_timesteps") else str(value),
)
def test_evaluations_of_schedulers(scheduler: Any, evaluations: int, repeats: bool) -> None:
    before = None if scheduler.timesteps is None else scheduler.timesteps.clone()
    facts = scheduler_facts(scheduler, 20)
    assert (facts.evaluations, facts.repeats) == (evaluations, repeats)
    after = scheduler.timesteps
    assert after is before if before is None else torch.equal(after, before)


def test_a_scheduler_that_cannot_be_asked() -> None:
    class Strange(diffusers.DDIMScheduler):
        def set_timesteps(self, table: Any, other: Any) -> None:  # type: ignore[override]
            raise AssertionError

    assert scheduler_facts(Strange(), 20).evaluations is None


def test_what_was_done_to_a_model_is_found() -> None:
    pipe = tiny_pipeline("flux")
    pipe.transformer.compile_repeated_blocks(backend="eager")
    assert _one(pipe).state == ("torch.compile of 4 of its modules",)

    pipe = tiny_pipeline("flux")
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    assert _one(pipe).state == ("torch.compile of the whole denoiser",)

    pipe = tiny_pipeline("flux")
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    assert _one(pipe).state == ("diffusers cache: First Block Cache",)

    pipe = tiny_pipeline("flux")
    pipe.transformer.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert _one(pipe).state == ("group offload",)
    assert _one(pipe).cost is not None

    pipe = tiny_pipeline("pixart")
    pipe.transformer.train()
    assert _one(pipe).state == ("training mode",)


def test_adapters_are_found() -> None:
    peft = pytest.importorskip("peft")
    pipe = tiny_pipeline("flux")
    config = peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False)
    pipe.transformer.add_adapter(config, adapter_name="style")
    assert _one(pipe).state == ("adapters style on 4 layers",)
    pipe.transformer.fuse_lora()
    assert _one(pipe).state == ("adapters style on 4 layers, fused",)


def test_the_command_prints_tables_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    import dit_accel.pipelines.loading
    from dit_accel.cli.app import app

    monkeypatch.setattr(dit_accel.pipelines.loading, "load_pipeline", lambda source: tiny_pipeline(source))
    result = CliRunner().invoke(app, ["doctor", "pixart"])
    assert result.exit_code == 0, result.output
    for words in (
        "PixArtTransformer2DModel",
        "family 'pixart'",
        "16 (4×4) at 64×64 px",
        "pass static_cache",
        "MACs per image",
    ):
        assert words in result.output
    result = CliRunner().invoke(app, ["doctor", "wan22", "--frames", "5", "--height", "64", "--json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert [denoiser["name"] for denoiser in data["denoisers"]] == ["transformer", "transformer_2"]
    result = CliRunner().invoke(app, ["doctor", DISCOVERED[0], "--height", "64"])
    assert result.exit_code == 0 and "discovered" in result.output
    reads_values = register_family(dataclasses.replace(MOCHI, on_shapes=None))
    try:
        result = CliRunner().invoke(app, ["doctor", "mochi", "--height", "64"])
    finally:
        unregister_family(reads_values)
    assert result.exit_code == 0 and "not counted" in result.output and "on shapes alone" in result.output


def test_size_is_what_a_plain_call_makes() -> None:
    denoiser = _one(load_embedded("emoji-flux"))
    assert (denoiser.size_px, denoiser.num_tokens) == ((64, 64), 64)
