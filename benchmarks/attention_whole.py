"""Whole denoiser calls at the shapes of large models, with random weights: dense attention against sparse passes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import diffusers
import torch
from attention_clock import DEVICE, DTYPE, milliseconds

from dit_accel import SLAConfig, StaticMaskConfig, accelerated
from dit_accel.plan.config import PassConfig

WAN = {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "text_dim": 4096}
SHAPES = {
    "wan-1.3b-480p": ("wan", (21, 60, 104)),
    "wan-1.3b-720p": ("wan", (21, 90, 160)),
    "flux-1024": ("flux", (64, 64)),
    "flux-2048": ("flux", (128, 128)),
}
TINY = {"wan-tiny": ("wan", (3, 16, 16)), "flux-tiny": ("flux", (12, 12))}


def whole_calls(name: str, kind: str, size: tuple[int, ...], *, tiny: bool) -> dict[str, Any]:
    """Milliseconds of a call, dense and under each pass.

    Args:
        name: In results.
        kind: ``"wan"`` or ``"flux"``.
        size: Of the latents: frames, height and width; or rows and columns of tokens.
        tiny: Two layers of small heads, to rehearse.
    """
    model, inputs, scheduler = (_wan if kind == "wan" else _flux)(size, tiny)
    row: dict[str, Any] = {"name": name, "dense_ms": milliseconds(lambda: model(**inputs), 5), "sparse": []}
    for density in (0.5, 0.3, 0.1):
        configs: list[PassConfig] = [StaticMaskConfig(density=density), SLAConfig(density=density)]
        for config in configs:
            with _called(model, scheduler, config, inputs) as call:
                row["sparse"].append({"pass": config.type_name, "density": density, "ms": milliseconds(call, 5)})
    return row


@contextlib.contextmanager
def _called(model: Any, scheduler: Any, config: PassConfig, inputs: dict[str, Any]) -> Iterator[Any]:
    """A function that calls the model as the next step of a run, under a pass."""
    with accelerated(model, config, scheduler=scheduler):
        scheduler.set_timesteps(1000)
        steps = iter(scheduler.timesteps)
        latents = inputs["hidden_states"]

        def call() -> None:
            scheduler.step(model(**inputs).sample, next(steps), latents)

        call()
        yield call


def _wan(size: tuple[int, ...], tiny: bool) -> tuple[Any, dict[str, Any], Any]:
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 64, "text_dim": 32}
    config = small if tiny else WAN
    model = _random(lambda: diffusers.WanTransformer3DModel(**config))
    inputs = {
        "hidden_states": torch.randn(1, 16, *size, device=DEVICE, dtype=DTYPE),
        "timestep": torch.tensor([500], device=DEVICE),
        "encoder_hidden_states": torch.randn(1, 512, config["text_dim"], device=DEVICE, dtype=DTYPE),
    }
    return model, inputs, diffusers.FlowMatchEulerDiscreteScheduler()


def _flux(size: tuple[int, ...], tiny: bool) -> tuple[Any, dict[str, Any], Any]:
    small = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
    small |= {"joint_attention_dim": 32, "pooled_projection_dim": 16, "axes_dims_rope": (4, 6, 6)}
    model = _random(lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True, **(small if tiny else {})))
    rows, columns = size
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    text = 16 if tiny else 512
    config = model.config
    shapes = {
        "hidden_states": (1, rows * columns, config["in_channels"]),
        "encoder_hidden_states": (1, text, config["joint_attention_dim"]),
        "pooled_projections": (1, config["pooled_projection_dim"]),
    }
    inputs = {key: torch.randn(*shape, device=DEVICE, dtype=DTYPE) for key, shape in shapes.items()}
    inputs |= {
        "timestep": torch.tensor([0.5], device=DEVICE, dtype=DTYPE),
        "guidance": torch.tensor([3.5], device=DEVICE, dtype=DTYPE),
        "img_ids": ids.flatten(0, 1).to(DEVICE, DTYPE),
        "txt_ids": torch.zeros(text, 3, device=DEVICE, dtype=DTYPE),
    }
    return model, inputs, diffusers.FlowMatchEulerDiscreteScheduler()


def _random(make: Any) -> Any:
    with torch.device(DEVICE):
        return make().to(DTYPE).eval().requires_grad_(False)
