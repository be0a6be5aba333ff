"""What a calibration is of: a pipeline as it is set up now, the runs to accelerate, and the prompts that are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dit_accel.calibration.judging import drawing
from dit_accel.calibration.recording import Draw
from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target, find_targets
from dit_accel.pipelines.generation import GenerationSettings, makes_video, steps_of
from dit_accel.plan.fingerprint import Fingerprint, digest, fingerprint, scheduler_digest
from dit_accel.plan.weights import sample_weights
from dit_accel.prompts import load_prompts

NUM_IMAGES, NUM_VIDEOS = 32, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """See the module.

    Attributes:
        pipe: The pipeline.
        model: What it was loaded from.
        settings: Of the runs.
        prompts: All that are drawn, in order.
        targets: Denoisers of the pipeline.
    """

    pipe: Any
    model: str
    settings: GenerationSettings
    prompts: tuple[str, ...]
    targets: tuple[Target, ...]

    @property
    def count(self) -> int:
        """How many prompts there are."""
        return len(self.prompts)

    @property
    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """Of the denoisers."""
        return tuple(fingerprint(target) for target in self.targets)

    @property
    def setup(self) -> dict[str, Any]:
        """What a recording depends on and an identity does not say: type of the devices and of the numbers."""
        first = [next(target.denoiser.parameters()) for target in self.targets]
        return {"device": [f"{parameter.device.type} {parameter.dtype}" for parameter in first]}

    def draw_at(self, scale: float | None = None) -> Draw:
        """Draws the prompts; at another guidance scale, if one is given."""
        settings = self.settings if scale is None else replace(self.settings, guidance_scale=scale)
        return drawing(self.pipe, self.prompts, settings)

    def identity(self, **more: Any) -> Mapping[str, Any]:
        """Everything that judgements depend on, as JSON data; of ``more`` what is asked for: an
        option that a later version adds leaves older folders theirs."""
        samples = [sample_weights(target.denoiser) for target in self.targets]
        return {
            "model": self.model,
            "weights": [None if sample is None else digest(asdict(sample)) for sample in samples],
            "scheduler": scheduler_digest(self.pipe.scheduler),
            "settings": asdict(self.settings),
            "prompts": digest(self.prompts),
            **{name: value for name, value in more.items() if not (value is None or value is False or value == [])},
        }


def check_steps(pipe: Any, settings: GenerationSettings | None) -> None:
    """Refuse runs of which nothing can be left out.

    Raises:
        ConfigError: They have fewer than two steps.
    """
    if steps_of(pipe, settings or GenerationSettings()) < 2:
        raise ConfigError("a run of one step has none to leave out: ask for two steps or more")


def subject_of(
    pipe: Any,
    model: str,
    settings: GenerationSettings | None = None,
    prompts: Sequence[str] | None = None,
    num_prompts: int | None = None,
) -> Subject:
    """The subject of a calibration.

    Args:
        pipe: A text-to-image or text-to-video pipeline.
        model: What it was loaded from.
        settings: Of the runs to accelerate; ``None``: the pipeline's own.
        prompts: To draw; ``None``: the list ``search`` that ships.
        num_prompts: How many of them; ``None``: 32 images or 12 videos.

    Raises:
        ConfigError: There are fewer than two prompts.
    """
    video = makes_video(pipe)
    listed = tuple(prompts or load_prompts("search", "video" if video else "image").prompts)
    count = min(num_prompts or (NUM_VIDEOS if video else NUM_IMAGES), len(listed))
    if count < 2:
        raise ConfigError("a fit takes at least two prompts")
    return Subject(
        pipe=pipe,
        model=model,
        settings=settings or GenerationSettings(),
        prompts=listed[:count],
        targets=find_targets(pipe),
    )
