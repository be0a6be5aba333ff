"""The facts beside the sites: guidance, conditioning, where text sits, token grids, inputs of any size and device."""

import inspect
from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
from tiny import (
    DISCOVERED_NAMES,
    TEXT_TOKENS,
    TINY_NAMES,
    TINY_PIPELINE_NAMES,
    tiny_call,
    tiny_inputs,
    tiny_model,
    tiny_pipeline,
)
from tiny_configs import TINY

from dit_accel.families import resolve_family
from dit_accel.families.check import check_family
from dit_accel.families.grid import token_grid
from dit_accel.families.live_call import live_call
from dit_accel.families.macs import count_macs, meta_twin
from dit_accel.families.pipeline import find_denoisers
from dit_accel.families.proofs import Trial, flat, grid_faults, noise_like

DESCRIBED_NAMES = tuple(name for name in TINY_NAMES if name not in DISCOVERED_NAMES)
PIPELINES = tuple(name for name in DESCRIBED_NAMES if name in TINY_PIPELINE_NAMES)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_conditioning_arguments_exist(name: str) -> None:
    model = tiny_model(name)
    taken = inspect.signature(model.forward).parameters
    family = resolve_family(model)
    assert family.conditioning
    assert set(family.conditioning) <= set(taken)


@pytest.mark.parametrize("name", PIPELINES)
def test_guidance_is_run_as_described(name: str) -> None:
    """One call per step with a doubled batch, two calls, or one call of the plain batch."""
    pipe = tiny_pipeline(name)
    ((_, denoiser),) = find_denoisers(pipe)
    batches: list[int] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        batches.append(next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)).shape[0])

    denoiser.register_forward_pre_hook(note, with_kwargs=True)
    pipe(**tiny_call(name, num_inference_steps=4))
    guidance = resolve_family(denoiser).guidance
    if name == "flux2_klein":  # one class with FLUX.2, but the base model is not distilled
        guidance = "two_calls"
    expected = {"batched": [2] * 4, "two_calls": [1] * 8, "distilled": [1] * 4}
    assert batches == expected[guidance]


@pytest.mark.parametrize("name", [n for n in DESCRIBED_NAMES if n != "dit"])
def test_text_sits_where_described(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the prompt changes the keys of the text's span in the joint sequence, or (cross-attention) none."""
    model = tiny_model(name)
    family = resolve_family(model)
    if name == "mochi":  # the pooled prompt modulates every token
        model.get_submodule("time_embed.pooler").register_forward_hook(lambda module, args, output: output * 0)
    keys: list[torch.Tensor] = []
    original = F.scaled_dot_product_attention

    def spy(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        keys.append(key)
        return original(query, key, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    inputs = tiny_inputs(name, model)
    grid = token_grid(family, model, inputs)
    assert grid is not None
    sequences = ("encoder_hidden_states", "cap_feats", "image_embeds")
    tokens = [key for key in family.conditioning if key.startswith(sequences)]
    others = {key: noise_like(inputs[key]) for key in tokens if key in inputs and not key.endswith("mask")}
    with torch.no_grad():
        model(**inputs)
        first = list(keys)
        keys.clear()
        model(**{**inputs, **others})
    pairs = list(zip(first, keys, strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    changed = [(a != b).any(dim=-1).any(dim=1).any(dim=0).nonzero().flatten().tolist() for a, b in pairs]
    if family.text == "cross":
        assert grid.text is None
        assert not any(a.shape[2] == grid.num_tokens + TEXT_TOKENS for a, _ in pairs)
        return
    assert grid.text is not None
    start, end = grid.text
    length = max(end, grid.num_tokens + end - start)
    joint = [places for (a, _), places in zip(pairs, changed, strict=True) if a.shape[2] == length]
    assert joint[0] == list(range(start, end))
    assert family.text == ("prefix" if start == 0 else "suffix")


# UNets have no blocks of tokens; the latents of wan_animate have one frame more, the reference picture.
WITHOUT_GRID = ("sd", "sdxl", "animatediff", "animatediff_sdxl", "svd", "wan_animate")


@pytest.mark.parametrize("name", [n for n in DESCRIBED_NAMES if n not in WITHOUT_GRID])
def test_grid_of_a_size_is_the_grid_of_its_call(name: str) -> None:
    model = tiny_model(name)
    family = resolve_family(model)
    px = TINY[name].px
    size = {"height_px": px, "width_px": px if name == "dit" else 2 * px, "num_frames": TINY[name].frames}
    call = family.sample_inputs(model, batch=1, text_tokens=TEXT_TOKENS, **size)
    grid = token_grid(family, model, call)
    assert grid is not None and grid.size == family.grid(model, **size)
    assert grid_faults(Trial(model, family.bind(model), call), family) == []


def test_reference_pictures_are_no_part_of_the_grid() -> None:
    """FLUX Kontext and FLUX.2 append their tokens, FLUX.2 klein puts them first where it keeps their keys."""
    for name, place, first in (("flux", 1, False), ("flux2", 10, False), ("flux2", 10, True)):
        model = tiny_model(name)
        family = resolve_family(model)
        call = family.sample_inputs(model, height_px=64, width_px=96, text_tokens=TEXT_TOKENS)
        reference = family.sample_inputs(model, height_px=128, width_px=32, text_tokens=TEXT_TOKENS)
        reference["img_ids"][:, 0] = place
        both = (reference, call) if first else (call, reference)
        call["hidden_states"] = torch.cat([part["hidden_states"] for part in both], dim=1)
        call["img_ids"] = torch.cat([part["img_ids"] for part in both])
        grid = token_grid(family, model, call)
        assert grid is not None and (grid.size, grid.reference) == ((1, 4, 6), 8 * 2)
        assert grid_faults(Trial(model, family.bind(model), call), family) == []


@pytest.mark.parametrize(("name", "reference"), [("qwen_image_edit", 64), ("qwen_image_edit_plus", 64 + 16 * 4)])
def test_pictures_to_edit_follow_the_one_that_is_made(name: str, reference: int) -> None:
    pipe = tiny_pipeline(name)
    family = resolve_family(pipe.transformer)
    call = live_call(pipe.transformer, lambda: pipe(**tiny_call(name)))
    assert call["hidden_states"].shape[1] == 16 + reference
    grid = token_grid(family, pipe.transformer, call)
    assert grid is not None and (grid.size, grid.reference, grid.text) == ((1, 4, 4), reference, (0, TEXT_TOKENS))
    assert check_family(pipe.transformer, family, call) == ()


@pytest.mark.parametrize("name", DESCRIBED_NAMES)
def test_inputs_of_other_sizes_run_on_the_meta_device(name: str) -> None:
    tiny = TINY[name]
    with torch.device("meta"):
        model = getattr(diffusers, tiny.model_class)(**tiny.config).eval().to("meta")
    family = resolve_family(model)
    if family.on_shapes is not None:
        family.on_shapes(model)
    # DiT takes square images only.
    width = 2 * tiny.px if name == "dit" else 3 * tiny.px
    frames = 1 if tiny.frames == 1 else 2 * tiny.frames - 1
    inputs = family.sample_inputs(model, height_px=2 * tiny.px, width_px=width, num_frames=frames, batch=3)
    with torch.no_grad():
        output = model(**inputs)
    output = output if isinstance(output, torch.Tensor) else output[0]
    assert len(output) == 3
    assert output[0].device.type == "meta"


@pytest.mark.parametrize("name", ["lumina2", "hidream", "mochi", "hunyuan_video15"])
def test_a_copy_that_runs_on_shapes_costs_what_the_model_does(name: str) -> None:
    model = tiny_model(name)
    family = resolve_family(model)
    layout, inputs = family.bind(model), tiny_inputs(name, model)
    counted = count_macs(model, layout, inputs)
    twin = meta_twin(model)
    assert twin is not None and family.on_shapes is not None
    family.on_shapes(twin)
    shapes = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
    found = count_macs(twin, layout, shapes)
    assert {site: macs.total for site, macs in found.sites.items()} == {
        site: macs.total for site, macs in counted.sites.items()
    }


# The usual autoencoder of these does not scale by 8.
ANOTHER_SCALE = ("sana", "ltx", "ltx2", "ltx23", "hunyuan_video15")


@pytest.mark.parametrize("name", [n for n in DESCRIBED_NAMES if n not in ANOTHER_SCALE])
def test_another_autoencoder_changes_the_latent_size(name: str) -> None:
    model = tiny_model(name)
    family = resolve_family(model)
    size = {"height_px": 32, "width_px": 32, "num_frames": TINY[name].frames, "batch": 2, "text_tokens": TEXT_TOKENS}
    halved = family.sample_inputs(model, vae_scale=(family.vae_scale[0], 4), **size)
    doubled = family.sample_inputs(model, **{**size, "height_px": 64, "width_px": 64})
    with torch.no_grad():
        assert torch.equal(flat(model(**halved)), flat(model(**doubled)))
