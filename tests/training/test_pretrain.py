"""Three steps of everything on synthetic images: it trains, resumes exactly, exports, loads and measures."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, PixArtAlphaPipeline

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.training.concepts import Concept
from dit_accel.training.denoiser import build_pixart, build_text_encoder
from dit_accel.training.export import export_pipeline, generate
from dit_accel.training.loop import LoopConfig
from dit_accel.training.pretrain import RunOptions, TrainingSet, train_embedded, train_vae
from dit_accel.training.recipes import RECIPES, EmbeddedRecipe, get_recipe
from dit_accel.training.vae import build_vae

LOOP = LoopConfig(steps=3, batch_size=4, lr=1e-3, warmup_steps=2, log_steps=1)
RECIPE = EmbeddedRecipe(
    name="test",
    image_size=16,
    vae={"channels": (8, 8, 8)},
    text_encoder={"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    denoiser={
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "cross_attention_dim": 16,
        "caption_channels": 16,
        "sample_size": 4,
        "patch_size": 2,
    },
    vae_loop=LOOP,
    decoder_loop=LOOP,
    denoiser_loop=LOOP,
    num_inference_steps=2,
)


@pytest.fixture
def data() -> TrainingSet:
    names = ["red apple", "owl", "green tree", "blue fish", "paw prints"]
    images = torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    concepts = [Concept(code=str(k), name=name, aliases=(), category="x") for k, name in enumerate(names)]
    return TrainingSet(images=images, concepts=concepts, styles=[None] * 5)


def options(run_dir: Path, **changes: object) -> RunOptions:
    return RunOptions(run_dir=run_dir, device=torch.device("cpu"), compile_modules=False, **changes)  # type: ignore[arg-type]


def test_all_stages_train_export_and_load(data: TrainingSet, tmp_path: Path) -> None:
    pipe = train_embedded(RECIPE, data, options(tmp_path))
    assert isinstance(pipe, PixArtAlphaPipeline)
    assert sorted(path.name for path in tmp_path.glob("*-000003.png")) == [
        "decoder-000003.png",
        "denoiser-000003.png",
        "vae-000003.png",
    ]
    export_pipeline(pipe, tmp_path / "final")
    again = DiffusionPipeline.from_pretrained(tmp_path / "final")
    again.set_progress_bar_config(disable=True)
    assert {again.text_encoder.dtype, again.transformer.dtype, again.vae.dtype} == {torch.float32}
    settings = {"seed": 0, "num_inference_steps": 2, "guidance_scale": 3.0}
    short = generate(again, ["a red apple", "an owl"], max_sequence_length=8, **settings)
    assert short.shape == (2, 3, 16, 16)
    torch.testing.assert_close(generate(again, ["a red apple", "an owl"], **settings), short, atol=1e-4, rtol=0)


def test_killed_and_resumed_equals_uninterrupted(data: TrainingSet, tmp_path: Path) -> None:
    recipe = RECIPE
    for stage in ("vae", "denoiser"):
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


def test_decoder_stage_leaves_the_latents_alone(data: TrainingSet, tmp_path: Path) -> None:
    pipe = train_embedded(RECIPE, data, options(tmp_path))
    assert pipe is not None
    trained = torch.load(tmp_path / "vae.ckpt.pt", weights_only=True)["ema"]["shadow_params"]
    assert torch.equal(pipe.vae.encoder.conv_in.weight, trained[0])


def test_a_stage_without_its_forerunner_says_so(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(DitAccelError, match="run the stage 'vae' first"):
        train_embedded(RECIPE, data, options(tmp_path), ["denoiser"])


def test_bad_arguments_are_named(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown training stage"):
        train_embedded(RECIPE, data, options(tmp_path), ["dit"])
    with pytest.raises(ConfigError, match="Did you mean 'emoji-pixart'"):
        get_recipe("emoji-pixar", "cpu")
    with pytest.raises(ConfigError, match="lr must lie"):
        LoopConfig(steps=1, batch_size=1, lr=0)


def test_not_resuming_starts_afresh(data: TrainingSet, tmp_path: Path) -> None:
    train_vae(RECIPE, data, options(tmp_path))
    before = (tmp_path / "vae.log.jsonl").read_text().count("\n")
    assert train_vae(RECIPE, data, options(tmp_path))
    assert (tmp_path / "vae.log.jsonl").read_text().count("\n") == before
    assert train_vae(RECIPE, data, options(tmp_path, resume=False))
    assert (tmp_path / "vae.log.jsonl").read_text().count("\n") == before + 3


@pytest.mark.parametrize("size", ["cpu", "gpu"])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_fit_into_40_mb(name: str, size: str) -> None:
    recipe = get_recipe(name, size)
    with torch.device("meta"):
        parts = [
            build_vae(image_size=recipe.image_size, **recipe.vae),
            build_text_encoder(2500, recipe.text_encoder),
            build_pixart(recipe.denoiser),
        ]
    half_precision_bytes = 2 * sum(p.numel() for part in parts for p in part.parameters())
    assert half_precision_bytes < 39e6
