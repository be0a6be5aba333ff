"""Calls any text-to-image pipeline the same way: only what was asked for is passed, the rest stays its default."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError, DitAccelError

if TYPE_CHECKING:
    import torch

# PixArt's, Sana's and PRX's pipelines fit sizes into lists of aspect ratios; a smaller edge has no list, but an error.
SMALLEST_BINNED_PX = 256
DEFAULT_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """What a user may ask of a run; ``None`` leaves it to the pipeline.

    Attributes:
        num_inference_steps: Scheduler steps.
        guidance_scale: Classifier-free guidance.
        height: Pixels.
        width: Pixels.

    Raises:
        ConfigError: A value no pipeline could use.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"'{name}' must be at least 1, got {value}")


def generate_images(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    *,
    batch_size: int | None = None,
) -> "torch.Tensor":
    """Make one image for each pair of prompt and seed.

    Each image has its own CPU generator, so that neither the batch nor the device changes its initial noise.

    Args:
        pipe: A text-to-image pipeline, accelerated or not.
        prompts: B prompts.
        seeds: B seeds.
        settings: Of the run.
        batch_size: Images a pipeline call; ``None``: all at once.

    Returns:
        Images in [0, 1], float32 [B, 3, H, W], on the CPU.

    Raises:
        ConfigError: Prompts and seeds do not match, or the pipeline refuses the settings or makes no images.
    """
    import torch

    if not prompts or len(prompts) != len(seeds):
        raise ConfigError(f"wanted as many seeds as prompts, at least one; got {len(prompts)} and {len(seeds)}")
    _check_takes_text(pipe)
    size = batch_size or len(prompts)
    parts = []
    for start in range(0, len(prompts), size):
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[start : start + size]]
        arguments = call_arguments(pipe, settings)
        parts.append(_call(pipe, list(prompts[start : start + size]), generators, arguments))
    return torch.cat(parts)


def call_arguments(pipe: Any, settings: GenerationSettings) -> dict[str, Any]:
    """Keyword arguments for ``pipe(...)`` from the settings and from what this pipeline's call accepts.

    Raises:
        ConfigError: A setting was asked for that the pipeline does not have.
    """
    accepted = inspect.signature(type(pipe).__call__).parameters
    arguments: dict[str, Any] = {}
    for name in ("num_inference_steps", "guidance_scale", "height", "width"):
        value = getattr(settings, name)
        if value is None:
            continue
        if name not in accepted:
            raise ConfigError(f"{type(pipe).__name__} has no setting '{name}'")
        arguments[name] = value
    if "use_resolution_binning" in accepted and _native_px(pipe) < SMALLEST_BINNED_PX:
        arguments["use_resolution_binning"] = False
    if "clean_caption" in accepted and not (find_spec("bs4") and find_spec("ftfy")):
        arguments["clean_caption"] = False  # what diffusers falls back to, without its warning on every call
    return arguments


def steps_of(pipe: Any, settings: GenerationSettings) -> int:
    """Steps that a run with these settings takes: those asked for, else the pipeline's default."""
    if settings.num_inference_steps is not None:
        return settings.num_inference_steps
    parameter = inspect.signature(type(pipe).__call__).parameters.get("num_inference_steps")
    default = None if parameter is None else parameter.default
    return default if isinstance(default, int) else DEFAULT_STEPS


def _check_takes_text(pipe: Any) -> None:
    name, accepted = type(pipe).__name__, inspect.signature(type(pipe).__call__).parameters
    if "prompt" not in accepted:
        raise ConfigError(f"{name} takes no prompt; only text-to-image pipelines can be run here so far")
    if "num_frames" in accepted:
        raise ConfigError(f"{name} makes video; only text-to-image pipelines can be run here so far")
    encoders = [part for key, part in getattr(pipe, "components", {}).items() if key.startswith("text_encoder")]
    if encoders and all(part is None for part in encoders):
        raise ConfigError(f"this {name} was loaded without a text encoder, so it cannot read a prompt")


def _native_px(pipe: Any) -> int:
    config = getattr(getattr(pipe, "transformer", None), "config", None)
    cells = getattr(config, "sample_size", None)
    return cells * int(getattr(pipe, "vae_scale_factor", 8)) if isinstance(cells, int) else SMALLEST_BINNED_PX


def _call(pipe: Any, prompts: list[str], generators: list[Any], arguments: dict[str, Any]) -> "torch.Tensor":
    import torch

    try:
        with torch.no_grad():
            result = pipe(prompts, generator=generators, output_type="pt", **arguments)
    except DitAccelError:
        raise
    except (ValueError, IndexError) as error:  # IndexError: a single step, which solvers of second order cannot take
        raise ConfigError(f"{type(pipe).__name__} refused to run: {' '.join(str(error).split())}") from error
    images = getattr(result, "images", None)
    if not isinstance(images, torch.Tensor) or images.dim() != 4:
        raise ConfigError(
            f"{type(pipe).__name__} makes no images; only text-to-image pipelines can be run here so far"
        )
    return images.detach().float().cpu().clamp(0, 1)
