"""Calls any text-to-image or text-to-video pipeline the same way: only what was asked for is passed on."""

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
FRAMES_PARAMETERS = ("num_frames", "frames", "video_length")  # what diffusers' video pipelines call the one setting
RATE_PARAMETERS = ("frame_rate", "fps")
LONG_CLIP_FRAMES = 33
LONG_CLIP_FPS, SHORT_CLIP_FPS = 16.0, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """What a user may ask of a run; ``None`` leaves it to the pipeline.

    Attributes:
        num_inference_steps: Scheduler steps.
        guidance_scale: Classifier-free guidance.
        height: Pixels.
        width: Pixels.
        num_frames: Of a video. Many pipelines round it to what their VAE can decode.

    Raises:
        ConfigError: A value no pipeline could use.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "height", "width", "num_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"'{name}' must be at least 1, got {value}")


def generate(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    *,
    batch_size: int | None = None,
) -> "torch.Tensor":
    """Make one image or video for each pair of prompt and seed.

    Each has its own CPU generator, so that neither the batch nor the device changes its initial noise.

    Args:
        pipe: A text-to-image or text-to-video pipeline, accelerated or not; see :func:`makes_video`.
        prompts: B prompts.
        seeds: B seeds.
        settings: Of the run.
        batch_size: Images or videos a pipeline call; ``None``: all at once.

    Returns:
        In [0, 1], float32, on the CPU: images [B, 3, H, W] or videos [B, F, 3, H, W].

    Raises:
        ConfigError: Prompts and seeds do not match, or the pipeline refuses the settings or makes something else.
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


def generate_images(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    *,
    batch_size: int | None = None,
) -> "torch.Tensor":
    """:func:`generate` for a caller that can use nothing but images, float32 [B, 3, H, W].

    Raises:
        ConfigError: The pipeline makes video, or as for :func:`generate`.
    """
    if makes_video(pipe):
        raise ConfigError(f"{type(pipe).__name__} makes video; only a text-to-image pipeline can be used here")
    return generate(pipe, prompts, seeds, settings, batch_size=batch_size)


def makes_video(pipe: Any) -> bool:
    """Whether a call of this pipeline makes videos, told by whether it can be asked for a number of frames."""
    return _frames_parameter(pipe) is not None


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
    if settings.num_frames is not None:
        frames = _frames_parameter(pipe)
        if frames is None:
            raise ConfigError(f"{type(pipe).__name__} has no setting 'num_frames': it makes images, not video")
        arguments[frames] = settings.num_frames
    if "use_resolution_binning" in accepted and _native_px(pipe) < SMALLEST_BINNED_PX:
        arguments["use_resolution_binning"] = False
    if "clean_caption" in accepted and not (find_spec("bs4") and find_spec("ftfy")):
        arguments["clean_caption"] = False  # what diffusers falls back to, without its warning on every call
    return arguments


def steps_of(pipe: Any, settings: GenerationSettings) -> int:
    """Steps that a run with these settings takes: those asked for, else the pipeline's default."""
    if settings.num_inference_steps is not None:
        return settings.num_inference_steps
    default = _call_default(pipe, "num_inference_steps")
    return default if isinstance(default, int) else DEFAULT_STEPS


def fps_of(pipe: Any, num_frames: int) -> float:
    """Frames a second at which a video of this pipeline is best played.

    What the pipeline's call says, where it has a frame rate (LTX: 25). Else 16, as Wan was trained, or 8 for a clip of
    up to 32 frames, which would be over in a moment.
    """
    for name in RATE_PARAMETERS:
        rate = _call_default(pipe, name)
        if isinstance(rate, int | float):
            return float(rate)
    return LONG_CLIP_FPS if num_frames >= LONG_CLIP_FRAMES else SHORT_CLIP_FPS


def _call_default(pipe: Any, name: str) -> Any:
    parameter = inspect.signature(type(pipe).__call__).parameters.get(name)
    return None if parameter is None else parameter.default


def _frames_parameter(pipe: Any) -> str | None:
    accepted = inspect.signature(type(pipe).__call__).parameters
    return next((name for name in FRAMES_PARAMETERS if name in accepted), None)


def _check_takes_text(pipe: Any) -> None:
    name, accepted = type(pipe).__name__, inspect.signature(type(pipe).__call__).parameters
    if "prompt" not in accepted:
        raise ConfigError(f"{name} takes no prompt; only text-to-image and text-to-video pipelines can be run here")
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [key for key, each in accepted.items() if each.default is each.empty and each.kind in keywords]
    more = [key for key in needed if key not in ("self", "prompt")]
    if more:
        raise ConfigError(
            f"{name} needs {', '.join(more)} besides a prompt; only text-to-image and text-to-video pipelines can be "
            "run here"
        )
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
    video = makes_video(pipe)
    made = getattr(result, "frames" if video else "images", None)
    if not isinstance(made, torch.Tensor) or made.dim() != (5 if video else 4):
        raise ConfigError(
            f"{type(pipe).__name__} makes no {'videos' if video else 'images'}; only text-to-image and text-to-video "
            "pipelines can be run here"
        )
    return made.detach().float().cpu().clamp(0, 1)
