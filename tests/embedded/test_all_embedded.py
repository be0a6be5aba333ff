"""Every pipeline that ships loads, draws, repeats itself, saves itself as stock, stays small, has its papers."""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard

from dit_accel.doctor.report import doctor_report
from dit_accel.embedded import embedded_path, list_embedded, load_embedded
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video, steps_of

MAX_BYTES = 40 * 2**20
PROMPTS = ("a red apple moves left", "a penguin moves right")
FEW = GenerationSettings(num_inference_steps=2)


@pytest.fixture(scope="module", params=list_embedded())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(name: str) -> Any:
    pipe = load_embedded(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_draws_and_repeats_itself(pipe: Any) -> None:
    first = generate(pipe, PROMPTS[:1], [0], FEW)
    assert first.shape == ((1, 16, 3, 64, 64) if makes_video(pipe) else (1, 3, 64, 64))
    assert first.isfinite().all() and first.std() > 0
    assert torch.equal(generate(pipe, PROMPTS[:1], [0], FEW), first)
    assert not torch.equal(generate(pipe, PROMPTS[:1], [1], FEW), first), "the seed"
    assert not torch.equal(generate(pipe, PROMPTS[1:], [0], FEW), first), "the caption"


def test_a_plain_call_is_quiet_and_takes_the_steps_it_says(pipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    arguments = {"num_frames": 4} if makes_video(pipe) else {}
    pipe(PROMPTS[0], output_type="latent", **arguments)
    assert pipe.scheduler.num_inference_steps == steps_of(pipe, GenerationSettings())
    assert not caplog.records


def test_frames_are_as_many_as_asked_for(pipe: Any) -> None:
    if not makes_video(pipe):
        pytest.skip("images")
    asked = GenerationSettings(num_inference_steps=2, num_frames=8)
    assert generate(pipe, PROMPTS[:1], [0], asked).shape == (1, 8, 3, 64, 64)


def test_it_saves_itself_as_a_stock_pipeline(name: str, pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "model_index.json").read_text())["_class_name"]
    shipped = json.loads((embedded_path(name) / "model_index.json").read_text())["_class_name"]
    assert saved == shipped == type(pipe).__name__
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(stock) is getattr(diffusers, saved)
    for part, module in stock.components.items():
        if isinstance(module, torch.nn.Module):
            ours = getattr(pipe, part).state_dict()
            assert all(torch.equal(value, ours[key]) for key, value in module.state_dict().items()), part


def test_the_stock_class_draws_the_same(name: str, pipe: Any) -> None:
    stock = DiffusionPipeline.from_pretrained(embedded_path(name))
    stock.set_progress_bar_config(disable=True)
    ours, theirs = (inspect.signature(type(each).__call__).parameters for each in (pipe, stock))
    differ = {key: value.default for key, value in ours.items() if value.default != theirs[key].default}
    if makes_video(pipe):
        differ["num_frames"] -= 1  # the stock rounding adds it
    call = {**differ, "num_inference_steps": 2, "output_type": "latent"}
    drawn = [
        each(PROMPTS[0], generator=torch.Generator().manual_seed(0), **arguments)[0]
        for each, arguments in ((stock, call), (pipe, {"num_inference_steps": 2, "output_type": "latent"}))
    ]
    assert torch.equal(*drawn)


def test_dtype_is_passed_on(name: str) -> None:
    pipe = load_embedded(name, dtype=torch.bfloat16)
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    assert denoiser.dtype == torch.bfloat16


def test_size_card_report_and_licences(name: str, pipe: Any) -> None:
    path = embedded_path(name)
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= MAX_BYTES
    assert "Apache-2.0" in (path / "ATTRIBUTION.txt").read_text()
    assert (path / "samples.png").is_file() and (path / "samples.webp").is_file() == makes_video(pipe)
    report = json.loads((path / "report.json").read_text())
    assert report["pipeline"] == name
    frechet, concepts = report["frechet"], report["concepts"]
    assert frechet["reconstructed"] < frechet["generated"] < frechet["untrained"], "between ceiling and floor"
    assert concepts["generated"]["top1_frac"] > 3 * report["chance"]["top1_frac"]
    card = ModelCard.load(path / "README.md")
    assert card.data.pipeline_tag == ("text-to-video" if makes_video(pipe) else "text-to-image")
    told = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert told["frechet-effnet-lite0"] == frechet["generated"], "the card says what the report says"
    if makes_video(pipe):
        motion = report["motion"]
        assert motion["real"]["direction_frac"] >= 0.99, "the judge is right about real videos"
        assert motion["generated"]["n"] >= 100 and motion["generated"]["direction_frac"] >= 0.8


def test_the_doctor_knows_its_size(name: str, pipe: Any) -> None:
    (denoiser,) = doctor_report(pipe).denoisers
    assert denoiser.size_px == (64, 64) and denoiser.num_frames == (16 if makes_video(pipe) else 1)
    assert denoiser.num_tokens >= (1024 if makes_video(pipe) else 64)
    assert denoiser.cost is not None and denoiser.cost.total > 1e6
