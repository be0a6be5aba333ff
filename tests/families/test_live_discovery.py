"""What discovery read from source is checked by the first live call: what does not fit is left out."""

import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from tiny import tiny_model
from tiny_models import randomise
from torch import nn

from dit_accel import accelerate_pipeline, remove_acceleration, summary
from dit_accel.families.discovery import discover_family
from dit_accel.families.grid import token_grid
from dit_accel.families.pipeline import find_denoisers
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.schedules import GeneratorSpec
from dit_accel.session.summary import DenoiserSummary

STEPS = 6


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.to_out(x).tanh()


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = _Attention(width)
        self.ff = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x) * temb
        x = x + self.ff(x)
        return x


class _Narrowing(_Block):
    """Its source says that it returns the stream ``x``; what comes out is half as long."""

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x) * temb
        x = x[:, : x.shape[1] // 2].contiguous()
        return x


class _Wrapped(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = _Block(width)

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return self.block(*args)


class _Denoiser(nn.Module):
    """Sound of shape [B, N, C], which no latent layout of ours describes; ``repeats`` runs every block so often."""

    def __init__(self, block: type[nn.Module] = _Block, *, count: int = 3, repeats: int = 1, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(width) for _ in range(count))
        self.repeats = repeats

    def forward(self, sound: torch.Tensor, timestep: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        x = sound + prompt_embeds
        for block in self.blocks:
            for _ in range(self.repeats):
                x = block(x, timestep / 1000)
        return x + sound[:, : x.shape[1]]


def _made(model: nn.Module) -> nn.Module:
    return randomise(model, 0).eval().requires_grad_(False)


def _drive(
    model: nn.Module, scheduler: Any, call: Callable[[torch.Tensor, torch.Tensor], Any], sample: torch.Tensor
) -> Any:
    """A sampling loop; returns everything that the denoiser said."""
    scheduler.set_timesteps(STEPS)
    said = []
    for t in scheduler.timesteps:
        output = call(sample, t)
        said.append(output.clone())
        if output.shape == sample.shape:
            sample = scheduler.step(output, t, sample).prev_sample
        else:
            scheduler.step(sample * 0.1, t, sample)
    return torch.stack(said)


def _sound(model: nn.Module) -> tuple[Callable[..., Any], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(2, 8, 8, generator=generator)
    return (lambda x, t: model(x, t, prompt)), torch.randn(2, 8, 8, generator=generator)


def _denoiser_summary(model: nn.Module) -> DenoiserSummary:
    (found,) = summary(model).denoisers
    return found


def test_latents_of_no_known_layout_are_no_obstacle() -> None:
    model, scheduler = _made(_Denoiser()), diffusers.DDIMScheduler()
    call, sample = _sound(model)
    plain = _drive(model, scheduler, call, sample)
    accelerate_pipeline(model, "lossless", scheduler=scheduler)
    assert torch.equal(_drive(model, scheduler, call, sample), plain)
    accelerate_pipeline(model, "fast", scheduler=scheduler)
    assert not torch.equal(_drive(model, scheduler, call, sample), plain)
    run = _denoiser_summary(model).last_run
    assert run is not None and run.actual_reuse == 3 * 2 * (STEPS - 2)  # three blocks of two leaves, two full steps
    assert run.conditions is not None and run.conditions.latent_size == (8, 8)
    remove_acceleration(model)
    assert torch.equal(_drive(model, scheduler, call, sample), plain)


def test_sites_inside_wrappers_are_found() -> None:
    family = discover_family(_Denoiser(_Wrapped))
    (stack,) = family.stacks
    assert [spec.path for spec in stack.sites] == ["block.attn", "block.ff"] and stack.streams == ()


@pytest.mark.parametrize("preset", ["balanced", "fast"])
def test_a_module_that_is_called_twice_a_call_is_left_out(preset: str) -> None:
    model, scheduler = _made(_Denoiser(repeats=2)), diffusers.DDIMScheduler()
    call, sample = _sound(model)
    plain = _drive(model, scheduler, call, sample)
    accelerate_pipeline(model, preset, scheduler=scheduler)
    with pytest.warns(UserWarning, match="cannot be kept.*called more than once"):
        assert torch.equal(_drive(model, scheduler, call, sample), plain)
    assert len(_denoiser_summary(model).left_out) == 6
    assert "left out blocks.0.attn and 5 more: it is called more than once" in str(summary(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(_drive(model, scheduler, call, sample), plain)


def test_a_block_whose_stream_changes_shape_is_left_out_and_the_leaves_go_on() -> None:
    model, scheduler = _made(_Denoiser(_Narrowing, count=2)), diffusers.DDIMScheduler()
    assert [stack.streams for stack in discover_family(model).stacks] == [("x",)]
    call, sample = _sound(model)
    plain = _drive(model, scheduler, call, sample)
    blocks = StaticCacheConfig(schedule=GeneratorSpec("block_range", n=2, first=0, last=1))
    accelerate_pipeline(model, blocks, scheduler=scheduler)
    with pytest.warns(UserWarning, match=r"goes in as \(2, 8, 8\) and comes out as \(2, 4, 8\)"):
        assert torch.equal(_drive(model, scheduler, call, sample), plain)
    assert sorted(_denoiser_summary(model).left_out) == ["blocks.0", "blocks.1"]
    accelerate_pipeline(model, "balanced", scheduler=scheduler)
    _drive(model, scheduler, call, sample)
    run = _denoiser_summary(model).last_run
    assert run is not None and run.actual_reuse == 2 * 3 and not _denoiser_summary(model).left_out


def test_two_runs_are_equal_although_the_first_one_found_out() -> None:
    model, scheduler = _made(_Denoiser(_Narrowing, count=2)), diffusers.DDIMScheduler()
    call, sample = _sound(model)
    reuse = {"blocks.0": [1, 3], "blocks.*.attn": [1, 2, 3]}
    accelerate_pipeline(model, StaticCacheConfig(schedule=GeneratorSpec("custom", reuse=reuse)), scheduler=scheduler)
    with pytest.warns(UserWarning, match="cannot be kept"):
        _drive(model, scheduler, call, sample)
    second = _drive(model, scheduler, call, sample)
    assert torch.equal(_drive(model, scheduler, call, sample), second)


_UNETS: dict[str, Callable[[], nn.Module]] = {
    "unet2d": lambda: diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    "kandinsky3": lambda: diffusers.Kandinsky3UNet(
        in_channels=3, time_embedding_dim=8, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(8, 8), cross_attention_dim=4, encoder_hid_dim=8,
    ),
    "motion": lambda: diffusers.UNetMotionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 8), norm_num_groups=2, layers_per_block=1,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), cross_attention_dim=8,
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        num_attention_heads=2, motion_num_attention_heads=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(_UNETS))
def test_unets_nobody_described_run_their_last_layers_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dit_accel.families.catalog.find_family", lambda model: None)
    model, scheduler = _made(_UNETS[name]()), diffusers.DDIMScheduler(clip_sample=False)
    generator = torch.Generator().manual_seed(1)
    frames = (2,) if name == "motion" else ()
    sample = torch.randn(2, 3, *frames, 8, 8, generator=generator)
    more: dict[str, Any] = {}
    if name != "unet2d":
        more["encoder_hidden_states"] = torch.randn(4 if frames else 2, 4, 8, generator=generator)  # one a frame
    if name == "kandinsky3":
        more["encoder_attention_mask"] = torch.ones(2, 4)

    def call(x: torch.Tensor, t: torch.Tensor) -> Any:
        return model(x, t, **more, return_dict=False)[0]

    plain = _drive(model, scheduler, call, sample)
    accelerate_pipeline(model, "lossless", scheduler=scheduler)
    assert torch.equal(_drive(model, scheduler, call, sample), plain)
    accelerate_pipeline(model, "fast", scheduler=scheduler)
    fast = _drive(model, scheduler, call, sample)
    assert torch.isfinite(fast).all() and not torch.equal(fast, plain)
    found = _denoiser_summary(model)
    assert found.family.startswith("discovered:") and not found.left_out
    assert found.last_run is not None and found.last_run.actual_reuse
    remove_acceleration(model)
    assert torch.equal(_drive(model, scheduler, call, sample), plain)


def _sd() -> tuple[nn.Module, Callable[..., Any], torch.Tensor]:
    model = tiny_model("sd")
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 6, 16, generator=generator)

    def call(x: torch.Tensor, t: torch.Tensor, **more: Any) -> Any:
        return model(x, t, text, return_dict=False, **more)[0]

    return model, call, torch.randn(2, 4, 8, 8, generator=generator)


def _adapter_shapes(model: nn.Module, call: Callable[..., Any], sample: torch.Tensor) -> list[torch.Size]:
    """What a T2I adapter adds: to the last attention of a block that has any, else to what the block hands on."""
    shapes = []

    def look(block: nn.Module, args: Any, output: Any) -> None:
        hidden, skips = output
        before = hasattr(block, "attentions") and block.downsamplers is not None
        shapes.append(skips[-2].shape if before else hidden.shape)

    handles = [block.register_forward_hook(look) for block in model.down_blocks]
    call(sample, torch.tensor(1))
    for handle in handles:
        handle.remove()
    return shapes


def test_an_adapter_may_add_in_place_to_what_a_skipped_block_hands_on() -> None:
    model, call, sample = _sd()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    generator = torch.Generator().manual_seed(2)
    added = [torch.randn(shape, generator=generator) for shape in _adapter_shapes(model, call, sample)]

    def adapted(x: torch.Tensor, t: torch.Tensor) -> Any:
        return call(x, t, down_intrablock_additional_residuals=[each.clone() for each in added])

    plain = _drive(model, scheduler, adapted, sample)
    accelerate_pipeline(model, "fast", scheduler=scheduler)
    fast = _drive(model, scheduler, adapted, sample)
    assert torch.isfinite(fast).all() and not torch.equal(fast, plain)
    assert torch.equal(fast[0], plain[0])
    remove_acceleration(model)
    assert torch.equal(_drive(model, scheduler, adapted, sample), plain)


class _Recorder:
    """Keeps the attention's input for the pipeline, as LEdits++ keeps its maps."""

    def __init__(self, inner: Any, store: list[int]) -> None:
        self.inner = inner
        self.attnstore = store

    def __call__(self, attn: nn.Module, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.attnstore.append(hidden_states.shape[1])
        return self.inner(attn, hidden_states, *args, **kwargs)


def test_an_attention_that_the_pipeline_watches_runs_at_every_step() -> None:
    model, call, sample = _sd()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    accelerate_pipeline(model, "fast", scheduler=scheduler)
    _drive(model, scheduler, call, sample)
    before = _denoiser_summary(model).last_run
    store: list[int] = []
    watched = {k: _Recorder(p, store) if "attn2" in k else p for k, p in model.attn_processors.items()}
    stock = dict(model.attn_processors)
    model.set_attn_processor(dict(watched))
    with pytest.warns(UserWarning, match="reads the attention maps that _Recorder records"):
        _drive(model, scheduler, call, sample)
    assert len(store) == STEPS * sum("attn2" in k for k in watched)
    model.set_attn_processor(dict(stock))
    _drive(model, scheduler, call, sample)
    after = _denoiser_summary(model).last_run
    assert before is not None and after is not None and after.actual_reuse == before.actual_reuse
    assert not _denoiser_summary(model).left_out


@pytest.mark.parametrize(
    "config", [{}, {"patch_size": None}, {"patch_size": "2"}, {"patch_size": [1, 2, 2]}, {"all_patch_size": (2,)}]
)
def test_the_token_grid_of_a_discovered_model_never_raises(config: dict[str, Any]) -> None:
    model = _Denoiser()
    model.config = config  # type: ignore[assignment]
    family = discover_family(model)
    assert token_grid(family, model, {}) is None
    assert token_grid(family, model, {"sound": torch.zeros(1, 8, 8)}) is None
    found = token_grid(family, model, {"sound": torch.zeros(1, 4, 8, 8)})
    assert found is not None and found.num_tokens in (16, 64)


def test_denoisers_of_other_names_are_found_and_controlnets_are_none() -> None:
    class Cascade:
        components = {  # noqa: RUF012
            "decoder": _Denoiser(),
            "prior_prior": _Denoiser(),
            "controlnet": _Denoiser(),
            "projector": nn.Linear(2, 2),
        }

    assert [name for name, _ in find_denoisers(Cascade())] == ["decoder"]
