"""Three steps of everything on synthetic images: it trains, resumes exactly, exports, loads and measures."""

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_recipes import PIXART, SD, SMALL, STAGES_OF, WAN, small_data

from dit_accel.embedded import load_folder
from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.prompts import PROMPT_LISTS, load_prompts
from dit_accel.training.card import TEXTS
from dit_accel.training.export import export_pipeline
from dit_accel.training.kinds import KINDS
from dit_accel.training.loop import LoopConfig
from dit_accel.training.pretrain import train_embedded, train_vae
from dit_accel.training.recipes import RECIPES, get_recipe
from dit_accel.training.stage import RunOptions
from dit_accel.training.training_set import TrainingSet, training_captions

# A video model is the slowest of them.
EVERY_KIND = [pytest.param(kind, marks=pytest.mark.slow) if kind == "wan" else kind for kind in SMALL]


def options(run_dir: Path, **changes: object) -> RunOptions:
    return RunOptions(run_dir=run_dir, device=torch.device("cpu"), compile_modules=False, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_all_stages_train_export_and_load(kind: str, tmp_path: Path) -> None:
    recipe = SMALL[kind]
    pipe = train_embedded(recipe, small_data(kind), options(tmp_path))
    assert type(pipe).__name__ == TEXTS[kind].class_name
    assert {path.name for path in tmp_path.glob("*-000003.png")} == {f"{name}-000003.png" for name in STAGES_OF[kind]}
    export_pipeline(pipe, tmp_path / "final")
    again = DiffusionPipeline.from_pretrained(tmp_path / "final")
    assert type(again) is getattr(diffusers, TEXTS[kind].class_name), "a plain diffusers folder"
    assert {part.dtype for part in again.components.values() if isinstance(part, torch.nn.Module)} == {torch.float32}
    loaded = load_folder(tmp_path / "final")
    size = {"height": 16, "width": 16} if kind == "flux" else {}
    settings = GenerationSettings(num_inference_steps=2, guidance_scale=3.0, **size)
    drawn = generate(loaded, ["a red apple", "an owl"], [0, 1], settings)
    assert drawn.shape == ((2, 16, 3, 64, 64) if kind == "wan" else (2, 3, 16, 16))
    assert drawn.isfinite().all() and drawn.std() > 0
    alone = generate(loaded, ["an owl"], [1], settings)
    torch.testing.assert_close(drawn[1:], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_the_sampler_and_the_trainer_mean_the_same_prediction(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A denoiser that knows the answer, sampled by the pipeline's own scheduler, must arrive at the clean latents."""
    train_embedded(SMALL[kind], small_data(kind), options(tmp_path))
    pipe = load_folder(tmp_path / "pipeline")
    shape = (1, 4, 16, 16, 16) if kind == "wan" else (1, 4, 4, 4)
    clean = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    objective = KINDS[kind].objective(clean.shape[1:])
    denoiser = getattr(pipe, KINDS[kind].denoiser_name)

    def forward(*args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        noisy = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "sample"]
        t = kwargs["timestep"] if "timestep" in kwargs else args[1]
        packed = kind == "flux"
        scale = 1000 if packed else 1
        t = torch.as_tensor(t).float().flatten()[:1] * scale
        latents = pipe._unpack_latents(noisy, 16, 16, 4) if packed else noisy
        t = t if kind in ("flux", "wan") else t.long()
        answer = solve(objective, clean, latents, t)
        return (pipe._pack_latents(answer, len(answer), 4, 4, 4) if packed else answer,)

    monkeypatch.setattr(denoiser, "forward", forward)
    size = {"height": 16, "width": 16} if kind == "flux" else {}
    found = pipe("an owl", num_inference_steps=50, guidance_scale=1.0, output_type="latent", **size)[0]
    found = pipe._unpack_latents(found, 16, 16, 4) if kind == "flux" else found
    torch.testing.assert_close(found, clean, atol=0.05, rtol=0)


def solve(objective: Any, clean: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The target that belongs to these noisy latents if ``clean`` is behind them."""
    zero = torch.zeros_like(clean)
    signal = objective.example(torch.ones_like(clean), zero, t)[0]
    sigma = objective.example(zero, torch.ones_like(clean), t)[0]
    noise = (noisy - signal * clean) / sigma
    return objective.example(clean.expand_as(noisy), noise, t)[1]


def test_held_out_captions_are_never_trained_on(data: TrainingSet) -> None:
    rows = training_captions(SD, data)
    held_out = {prompt for name in PROMPT_LISTS for prompt in load_prompts(name).prompts}
    assert "a red apple" in held_out and not held_out & set(rows.texts)
    assert "red apple" in rows.texts, "its other wordings are"
    totals = torch.zeros(len(data.concepts)).index_add_(0, rows.image, rows.weight)
    torch.testing.assert_close(totals, torch.full_like(totals, 1 / len(totals)))


@pytest.mark.parametrize(
    ("kind", "stages"),
    [
        ("flux", ("vae", "denoiser", "guidance")),
        pytest.param("wan", ("vae", "denoiser"), marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(kind: str, stages: tuple[str, ...], tmp_path: Path) -> None:
    recipe, data = SMALL[kind], small_data(kind)
    for stage in stages:
        train_embedded(recipe, data, options(tmp_path / "whole"), [stage])
        first = train_embedded(recipe, data, options(tmp_path / "cut", max_minutes=0), [stage])
        assert first is None, "one step, then the time is up"
        for _ in range(3):
            train_embedded(recipe, data, options(tmp_path / "cut", max_minutes=0), [stage])
        whole, cut = (torch.load(tmp_path / name / f"{stage}.ckpt.pt", weights_only=True) for name in ("whole", "cut"))
        assert whole["step"] == cut["step"] == 3
        for module, state in whole["modules"].items():
            for key, value in state.items():
                assert torch.equal(value, cut["modules"][module][key]), f"{stage}: {module}.{key}"
        for mine, theirs in zip(whole["ema"]["shadow_params"], cut["ema"]["shadow_params"], strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.slow
def test_videos_are_encoded_once_for_an_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dit_accel")

    def encoded() -> int:
        done = sum("latents: " in message for message in caplog.messages)
        caplog.clear()
        return done

    data = small_data("wan")
    train_embedded(WAN, data, options(tmp_path), ["vae", "denoiser"])
    assert encoded() == 1
    train_embedded(WAN, data, options(tmp_path), ["denoiser"])
    assert encoded() == 0
    again = dataclasses.replace(WAN, seed=1)
    train_embedded(again, data, options(tmp_path, resume=False), ["vae", "denoiser"])
    assert encoded() == 1, "another autoencoder"


def test_decoder_stage_leaves_the_latents_alone(data: TrainingSet, tmp_path: Path) -> None:
    pipe = train_embedded(PIXART, data, options(tmp_path))
    assert pipe is not None
    trained = torch.load(tmp_path / "vae.ckpt.pt", weights_only=True)["ema"]["shadow_params"]
    assert torch.equal(pipe.vae.encoder.conv_in.weight, trained[0])


def test_a_stage_without_its_forerunner_says_so(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(DitAccelError, match="run the stage 'vae' first"):
        train_embedded(PIXART, data, options(tmp_path), ["denoiser"])


def test_bad_arguments_are_named(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown training stage"):
        train_embedded(PIXART, data, options(tmp_path), ["dit"])
    with pytest.raises(ConfigError, match="Did you mean 'emoji-pixart'"):
        get_recipe("emoji-pixar", "cpu")
    with pytest.raises(ConfigError, match="lr must lie"):
        LoopConfig(steps=1, batch_size=1, lr=0)


def test_not_resuming_starts_afresh(data: TrainingSet, tmp_path: Path) -> None:
    train_vae(PIXART, data, options(tmp_path))
    before = (tmp_path / "vae.log.jsonl").read_text().count("\n")
    assert train_vae(PIXART, data, options(tmp_path))
    assert (tmp_path / "vae.log.jsonl").read_text().count("\n") == before
    assert train_vae(PIXART, data, options(tmp_path, resume=False))
    assert (tmp_path / "vae.log.jsonl").read_text().count("\n") == before + 3


@pytest.mark.parametrize("size", ["cpu", "gpu"])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_fit_into_40_mb(name: str, size: str) -> None:
    recipe = get_recipe(name, size)
    kind = KINDS[recipe.kind]
    tokenizers = kind.build_tokenizers([f"word{k}" for k in range(2500 if size == "gpu" else 400)])
    source = recipe if recipe.vae_source is None else get_recipe(recipe.vae_source, size)
    with torch.device("meta"):
        parts = [
            kind.autoencoder.build(recipe.image_size, source.vae),
            *kind.build_text_encoders(tokenizers, recipe.text_encoders).values(),
            kind.build_denoiser(recipe.denoiser),
        ]
    half_precision_bytes = 2 * sum(p.numel() for part in parts for p in part.parameters())
    assert half_precision_bytes < 40 * 2**20 - 500_000, "with tokenizers, samples and card: 40 MiB"
