"""The facts beside the sites: guidance, conditioning, where text sits, token grids, inputs of any size and device."""

import inspect
from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
from proof import flat, noise_like
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
from dit_accel.families.pipeline import find_denoisers

DESCRIBED_NAMES = tuple(name for name in TINY_NAMES if name not in DISCOVERED_NAMES)
PIPELINES = tuple(name for name in DESCRIBED_NAMES if name in TINY_PIPELINE_NAMES)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_conditioning_arguments_exist(name: str) -> None:
    model = tiny_model(name)
    taken = inspect.signature(model.forward).parameters
    family = resolve_family(model)
    assert family.conditioning
    if name in DISCOVERED_NAMES or name in ("flux", "sd3"):
        assert set(family.conditioning) <= set(taken)
    assert family.conditioning[0] in taken


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
    expected = {"batched": [2] * 4, "two_calls": [1] * 8, "distilled": [1] * 4}
    assert batches == expected[resolve_family(denoiser).guidance]


@pytest.mark.parametrize("name", [n for n in DESCRIBED_NAMES if n not in ("dit",)])
def test_text_sits_where_described(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the prompt changes the first, the last, or (cross-attention) none of the self-attended keys."""
    model = tiny_model(name)
    family = resolve_family(model)
    tiny = TINY[name]
    grid = family.grid(model, height_px=tiny.px, width_px=tiny.px, num_frames=tiny.frames)
    image_tokens = grid[0] * grid[1] * grid[2]
    if name == "mochi":  # the pooled prompt modulates every token
        model.get_submodule("time_embed.pooler").register_forward_hook(lambda module, args, output: output * 0)
    keys: list[torch.Tensor] = []
    original = F.scaled_dot_product_attention

    def spy(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        keys.append(key)
        return original(query, key, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    inputs = tiny_inputs(name, model)
    with torch.no_grad():
        model(**inputs)
        first = list(keys)
        keys.clear()
        model(**{**inputs, "encoder_hidden_states": noise_like(inputs["encoder_hidden_states"])})
    assert any(not torch.equal(a, b) for a, b in zip(first, keys, strict=True))
    given = (inputs.get(name) for name in family.conditioning)
    text_tokens = sum(item.shape[1] for item in given if isinstance(item, torch.Tensor) and item.dim() == 3)
    joint = [(a, b) for a, b in zip(first, keys, strict=True) if a.shape[2] == image_tokens + text_tokens]
    if family.text == "cross":
        assert not joint
        return
    a, b = joint[0]
    changed = (a != b).any(dim=-1).any(dim=1).any(dim=0).nonzero().flatten().tolist()
    total = image_tokens + text_tokens
    expected = {"prefix": range(TEXT_TOKENS), "suffix": range(total - TEXT_TOKENS, total)}[family.text]
    assert changed == list(expected)


# UNets have no blocks of tokens; the latents of wan_animate have one frame more, the reference picture.
WITHOUT_GRID = ("sd", "sdxl", "animatediff", "animatediff_sdxl", "svd", "sana", "wan_animate")


@pytest.mark.parametrize("name", [n for n in DESCRIBED_NAMES if n not in WITHOUT_GRID])
def test_grid_counts_the_tokens_that_blocks_see(name: str) -> None:
    """The image stream of the first block has one row per cell of the grid."""
    model = tiny_model(name)
    family = resolve_family(model)
    px = TINY[name].px
    size = {"height_px": px, "width_px": px, "num_frames": TINY[name].frames}
    rows: list[int] = []
    stack = next(stack for stack in family.stacks if stack.alias == "blocks")  # some have one for the text before it
    block = next(model.get_submodule(stack.path).children())

    def note(module: Any, args: Any, kwargs: Any) -> None:
        rows.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    block.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        model(**family.sample_inputs(model, batch=1, text_tokens=TEXT_TOKENS, **size))
    frames, height, width = family.grid(model, **size)
    assert rows == [frames * height * width]


# Their forwards look at values: which tokens a mask hides, whether an image is all zeros.
@pytest.mark.parametrize("name", [n for n in DESCRIBED_NAMES if n not in ("mochi", "hunyuan_video15")])
def test_inputs_of_other_sizes_run_on_the_meta_device(name: str) -> None:
    tiny = TINY[name]
    with torch.device("meta"):
        model = getattr(diffusers, tiny.model_class)(**tiny.config).to("meta")
    family = resolve_family(model)
    # DiT takes square images only.
    width = 2 * tiny.px if name == "dit" else 3 * tiny.px
    frames = 1 if tiny.frames == 1 else 2 * tiny.frames - 1
    inputs = family.sample_inputs(model, height_px=2 * tiny.px, width_px=width, num_frames=frames, batch=3)
    with torch.no_grad():
        output = model(**inputs)
    output = output if isinstance(output, torch.Tensor) else output[0]
    assert output.device.type == "meta"
    assert output.shape[0] == 3


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
