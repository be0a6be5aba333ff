"""Where rivals meet: one pipeline, one sampler, one number of steps, the same prompts and seeds for all."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import diffusers
import torch

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.evaluation.reports.report import ReportSample, Settings
from dit_accel.families.pipeline import find_denoisers
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video, steps_of
from dit_accel.pipelines.loading import load_pipeline
from dit_accel.prompts import load_prompts

OWN = "own"
SAMPLERS = {
    OWN: None,
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "euler": ("EulerDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
CALIBRATION_SEED = 100_000  # no image that is measured has such a seed


class Arena(Protocol):
    """What the measurement needs to know.

    Attributes:
        label: Name of files.
        pipe: The pipeline, plain.
        samples: What every contender makes.
        num_inference_steps: Of the plain run.
        batch_size: Samples a call.
        num_timed: Samples of a timed run, the first ones.
        has_pictures: Whether fidelity can be measured.
    """

    label: str
    pipe: Any
    samples: tuple[ReportSample, ...]
    num_inference_steps: int
    batch_size: int
    num_timed: int
    has_pictures: bool

    def make(self, first: int, last: int, steps: int | None = None) -> torch.Tensor:
        """Samples ``first`` to ``last - 1`` in one call."""

    def calibrate(self) -> None:
        """Run the pipeline as it is over prompts for tuning."""

    def settings(self, made: torch.Tensor, repeats: int) -> Settings:
        """For the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaOptions:
    """How many of what.

    Attributes:
        images: Images or videos of each contender.
        batch_size: A call.
        num_timed: Of a timed run.
        calibration_images: For rivals that calibrate.
        device: Torch device.
        dtype: Of the weights.
    """

    images: int = 200
    batch_size: int = 4
    num_timed: int = 4
    calibration_images: int = 8
    device: str = "cpu"
    dtype: str = "float32"


class PipelineArena:
    """A text-to-image or text-to-video pipeline on the prompts for certificates.

    Args:
        model: Embedded name, folder or hub id.
        sampler: One of ``SAMPLERS``.
        steps: Of the plain run; ``None``: the pipeline's default.
        options: How many of what.

    Raises:
        ConfigError: There is no such model or sampler, or the sampler cannot run it.
    """

    has_pictures = True

    def __init__(self, model: str, sampler: str, steps: int | None, options: ArenaOptions) -> None:
        self.model, self.sampler, self.options = model, sampler, options
        self.pipe: Any = load_pipeline(model, device=options.device, dtype=options.dtype)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.scheduler = scheduler_for(self.pipe, sampler)
        self.generation = GenerationSettings(num_inference_steps=steps)
        self.num_inference_steps = steps_of(self.pipe, self.generation)
        self.generation = replace(self.generation, num_inference_steps=self.num_inference_steps)
        self.batch_size, self.num_timed = options.batch_size, min(options.num_timed, options.images)
        prompts = load_prompts("certify", "video" if makes_video(self.pipe) else "image").prompts
        self.samples = tuple(ReportSample(prompt=prompts[k % len(prompts)], seed=k) for k in range(options.images))
        own = type(self.pipe.scheduler).__name__ if sampler == OWN else sampler
        self.label = f"{model.rstrip('/').rpartition('/')[2]}-{own}-{self.num_inference_steps}".replace("++", "pp")

    def make(self, first: int, last: int, steps: int | None = None) -> torch.Tensor:
        chosen = self.samples[first:last]
        settings = self.generation if steps is None else replace(self.generation, num_inference_steps=steps)
        return generate(self.pipe, [s.prompt for s in chosen], [s.seed for s in chosen], settings)

    def calibrate(self) -> None:
        count = self.options.calibration_images
        prompts = load_prompts("search", "video" if makes_video(self.pipe) else "image").prompts
        prompts = tuple(prompts[k % len(prompts)] for k in range(count))
        seeds = range(CALIBRATION_SEED, CALIBRATION_SEED + count)
        generate(self.pipe, prompts, seeds, self.generation, batch_size=self.batch_size)

    def settings(self, made: torch.Tensor, repeats: int) -> Settings:
        denoiser = find_denoisers(self.pipe)[0][1]
        return Settings(
            model=self.model,
            pipeline_class=type(self.pipe).__name__,
            denoiser_class=type(denoiser).__name__,
            scheduler=type(self.pipe.scheduler).__name__,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=None,
            height=made.shape[-2],
            width=made.shape[-1],
            num_frames=made.shape[1] if made.dim() == 5 else None,
            batch_size=self.batch_size,
            device=self.options.device,
            dtype=self.options.dtype,
            repeats=repeats,
            warmup=1,
            num_timed=self.num_timed,
            prompt_list="certify",
        )


def scheduler_for(pipe: Any, sampler: str) -> Any:
    """The pipeline's own scheduler, or another one with the same noise schedule.

    Raises:
        ConfigError: There is no such sampler, or the model is a flow and was trained for another kind of sampler.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(
            f"no sampler '{sampler}'.{did_you_mean(sampler, list(SAMPLERS))} There are: {', '.join(SAMPLERS)}."
        )
    chosen = SAMPLERS[sampler]
    if chosen is None:
        return pipe.scheduler
    config = pipe.scheduler.config
    if "FlowMatch" in type(pipe.scheduler).__name__ or config.get("use_flow_sigmas", False):
        raise ConfigError(f"'{sampler}' is a sampler of diffusion models; {type(pipe).__name__} is a flow model")
    name, changes = chosen
    return getattr(diffusers, name).from_config({**config, **changes})
