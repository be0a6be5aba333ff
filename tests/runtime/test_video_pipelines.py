"""Other pipelines around the video denoisers, which call them in other ways: images, references, guidance."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition
from PIL import Image
from reference import config, every_second, replayed, tensor_of
from tiny import tiny_call, tiny_model, tiny_pipeline
from tiny_configs import TINY
from tiny_models import randomise
from tiny_video_pipelines import ltx2_connectors

from dit_accel import accelerate_pipeline, summary
from dit_accel.families.pipeline import find_denoisers

STEPS = 6


def _picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(21))


@dataclass(frozen=True)
class Variant:
    """A pipeline made of the parts of ``tiny_pipeline(base)``, and what its call takes besides."""

    base: str
    pipeline: str
    parts: Callable[[], dict[str, Any]] = dict
    call: Callable[[], dict[str, Any]] = dict
    calls_per_step: int = 1
    # The call of each step in which some sites do not run at all. It then has nothing to reuse for them, which looks
    # like a kept output that was tampered with, and computes everything.
    # What the base's call has and this one's does not take, and what to set on the pipeline.
    without: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()


def _wan_image_parts() -> dict[str, Any]:
    """Wan 2.2's 14B: latents, the first frame's latents and its mask of 4 channels, no image tokens."""
    config = {**TINY["wan"].config, "in_channels": 4 + 4 + 4}
    transformer = randomise(diffusers.WanTransformer3DModel(**config), 0).eval().requires_grad_(False)
    return {"transformer": transformer, "image_encoder": None, "image_processor": None}


def _hunyuan_image_parts() -> dict[str, Any]:
    size = {"hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipVisionConfig(**size, image_size=4, patch_size=2)
    encoder = randomise(transformers.SiglipVisionModel(config), 2).eval().requires_grad_(False)
    processor = transformers.SiglipImageProcessorPil(size={"height": 4, "width": 4})
    return {"image_encoder": encoder, "feature_extractor": processor}


def _pil() -> Image.Image:
    return Image.fromarray((255 * _picture(64, 64, 3)).byte().numpy())


def _kandinsky_latents() -> dict[str, Any]:
    """Noise, the first frame's latents and its mask: with them the pipeline needs no autoencoder."""
    noise = torch.randn(1, 6, 8, 8, 9, generator=torch.Generator().manual_seed(5))
    return {"image": _pil(), "num_frames": 21, "latents": noise}


def _ltx23_parts() -> dict[str, Any]:
    more = {"per_modality_projections": True, "video_hidden_dim": 16, "audio_hidden_dim": 8}
    heads = {"video_connector_attention_head_dim": 8, "audio_connector_attention_head_dim": 4}
    return {"transformer": tiny_model("ltx23"), "connectors": ltx2_connectors(**more, **heads)}


def _ltx2_condition() -> dict[str, Any]:
    return {"conditions": LTX2VideoCondition(frames=_picture(1, 3, 64, 64), index=0, strength=0.8, crf=0)}


def _ltx2_reference() -> dict[str, Any]:
    return {"reference_conditions": LTX2ReferenceCondition(frames=_picture(3, 3, 64, 64), strength=1.0)}


ALL_GUIDANCE = {
    "stg_scale": 1.0,
    "audio_stg_scale": 1.0,
    "modality_scale": 3.0,
    "audio_modality_scale": 3.0,
    "spatio_temporal_guidance_blocks": [1],
}

NO_IMAGE_TOKENS = {"image_encoder": None, "image_processor": None}
VARIANTS = {
    "wan_image": Variant(
        "wan", "WanImageToVideoPipeline", _wan_image_parts, lambda: {"image": _picture(1, 3, 64, 64)}, 2
    ),
    "wan_ti2v_image": Variant(
        "wan_ti2v",
        "WanImageToVideoPipeline",
        lambda: NO_IMAGE_TOKENS,
        lambda: {"image": _picture(1, 3, 64, 64)},
        2,
    ),
    "kandinsky5_image": Variant(
        "kandinsky5",
        "Kandinsky5I2VPipeline",
        lambda: {"transformer": tiny_model("kandinsky5_i2v")},
        _kandinsky_latents,
        2,
    ),
    "kandinsky5_picture": Variant(
        "kandinsky5",
        "Kandinsky5T2IPipeline",
        calls_per_step=2,
        without=("num_frames",),
        settings=(("resolutions", [(64, 64)]),),
    ),
    "hunyuan_video15_image": Variant(
        "hunyuan_video15",
        "HunyuanVideo15ImageToVideoPipeline",
        _hunyuan_image_parts,
        lambda: {"image": _pil()},
        2,
        without=("height", "width"),
    ),
    "ltx2_image": Variant(
        "ltx2", "LTX2ImageToVideoPipeline", call=lambda: {"image": _picture(1, 3, 64, 64), "image_crf": 0}
    ),
    "ltx2_condition": Variant("ltx2", "LTX2ConditionPipeline", call=_ltx2_condition),
    "ltx2_in_context": Variant("ltx2", "LTX2InContextPipeline", call=_ltx2_reference),
    "ltx23": Variant("ltx2", "LTX2Pipeline", parts=_ltx23_parts),
    "ltx23_all_guidance": Variant(
        "ltx2", "LTX2Pipeline", parts=_ltx23_parts, call=lambda: ALL_GUIDANCE, calls_per_step=3
    ),
}


def _pipeline(name: str) -> diffusers.DiffusionPipeline:
    variant = VARIANTS[name]
    base = tiny_pipeline(variant.base)
    cls = getattr(diffusers, variant.pipeline)
    taken = inspect.signature(cls.__init__).parameters
    parts = {key: part for key, part in base.components.items() if key in taken}
    settings = {key: value for key, value in base.config.items() if key in taken and key not in parts}
    pipe = cls(**{**parts, **settings, **variant.parts()})
    pipe.set_progress_bar_config(disable=True)
    for attribute, value in variant.settings:
        setattr(pipe, attribute, value)
    return pipe


def _run(pipe: Any, name: str) -> torch.Tensor:
    variant = VARIANTS[name]
    call = {**tiny_call(variant.base, num_inference_steps=STEPS), **variant.call()}
    return tensor_of(pipe(**{key: value for key, value in call.items() if key not in variant.without}))


@pytest.mark.parametrize("name", VARIANTS)
def test_lossless_is_bit_equal(name: str) -> None:
    pipe = _pipeline(name)
    plain = _run(pipe, name)
    assert torch.isfinite(plain).all()
    accelerate_pipeline(pipe, "lossless", strict=True)
    assert torch.equal(_run(pipe, name), plain)
    assert summary(pipe).denoisers[0].last_run.restarts == {}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_second_step_equals_the_replay(name: str) -> None:
    plain_pipe, pipe = _pipeline(name), _pipeline(name)
    per_step = VARIANTS[name].calls_per_step

    def locate(call: int) -> tuple[int, Any]:
        return divmod(call, per_step)

    ((_, denoiser),) = find_denoisers(plain_pipe)
    schedule = every_second(denoiser, STEPS)
    with replayed(denoiser, schedule, locate) as seen:
        expected = _run(plain_pipe, name)
    assert len(seen) == STEPS * per_step
    accelerate_pipeline(pipe, config(schedule))
    assert torch.equal(_run(pipe, name), expected)
    assert not torch.equal(expected, _run(_pipeline(name), name)), "nothing was reused"
    stats = summary(pipe).denoisers[0].last_run
    assert stats.actual_reuse > 0
    assert stats.restarts == {}
