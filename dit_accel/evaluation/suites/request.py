"""What an evaluation is asked for, and whether it can be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dit_accel.api import PlanLike
from dit_accel.errors import ConfigError
from dit_accel.evaluation.compare.compare import PLAIN
from dit_accel.evaluation.metrics.alignment import Judge
from dit_accel.evaluation.metrics.networks import LoadedNetwork
from dit_accel.evaluation.suites.image_files import Preparation, list_images
from dit_accel.evaluation.suites.prompt_files import Item, PromptSet
from dit_accel.evaluation.suites.protocols import Suite
from dit_accel.evaluation.suites.real_images import LEAST_IMAGES, RealFolder
from dit_accel.pipelines.generation import GenerationSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to evaluate.

    Attributes:
        suite: Which evaluation.
        prompts: Of it.
        model: What the pipeline was loaded from, or what folders of images are of.
        plans: Variant name to a plan; ``None``: plain.
        images: Variant name to a folder of images that were made elsewhere, files named as the prompts are, or as a
            folder that this made.
        settings: Of the runs.
        num: Prompts; ``None``: as the suite says.
        copies: Images or videos of each prompt; ``None``: as the suite says.
        seed: Of the first; the next ones count up.
        batch_size: A pipeline call.
        reference: Folder of real images.
        network: Feature network; ``None``: no distances.
        judges: Of alignment.
        preparation: Of images before the network; ``None``: as the suite says.
        command: For the report.
    """

    suite: Suite
    prompts: PromptSet
    model: str
    plans: Mapping[str, PlanLike | None] = field(default_factory=dict)
    images: Mapping[str, Path] = field(default_factory=dict)
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    num: int | None = None
    copies: int | None = None
    seed: int = 0
    batch_size: int = 4
    reference: Path | None = None
    network: LoadedNetwork | None = None
    judges: Sequence[Judge] = ()
    preparation: Preparation | None = None
    command: Sequence[str] = ()

    @property
    def per_prompt(self) -> int:
        """Images or videos of each prompt."""
        return self.suite.per_prompt if self.copies is None else self.copies

    def items(self) -> tuple[Item, ...]:
        """What is made."""
        return self.prompts.select(
            self.suite.num if self.num is None else self.num,
            per_prompt=self.per_prompt,
            seed=self.seed,
            shuffled=self.suite.shuffled,
        )

    def check(self) -> RealFolder | None:
        """Say what can be said before anything slow has run; returns the real images.

        Raises:
            ConfigError: Something is missing, or there is nothing to do.
        """
        suite, items = self.suite, self.items()
        names = [*self.plans, *self.images]
        if not names:
            raise ConfigError("nothing to evaluate: give a model, or folders of images")
        if len(set(names)) < len(names):
            raise ConfigError(f"two variants have the same name: {', '.join(names)}")
        if suite.fidelity and (self.plans.get(PLAIN, ...) is not None or len(self.plans) < 2 or self.images):
            raise ConfigError(f"'{suite.name}' compares accelerated runs of a model with its plain one: give a preset")
        if self.images and suite.kind == "video":
            raise ConfigError("folders of images cannot be evaluated as videos")
        for judge in self.judges:
            prompts = tuple(item.prompt for item in items)
            if len(judge.unknown(prompts)) == len(prompts):
                raise ConfigError(f"{judge.name} can judge none of the prompts, for example '{prompts[0]}'")
        measures = bool(self.judges) or suite.fidelity or suite.kind == "video"
        if not suite.distances or self.network is None:
            if not measures:
                raise ConfigError("there is nothing left to measure: no feature network and no judge")
            return None
        if self.reference is None:
            raise ConfigError(
                f"'{suite.name}' measures a distance to real images: --reference FOLDER ({suite.files}); or leave "
                "distances out (--network none)"
            )
        real = RealFolder(folder=self.reference, files=list_images(self.reference))
        if min(len(real.files), len(items)) < LEAST_IMAGES:
            raise ConfigError(
                f"a distance takes {LEAST_IMAGES} images of either kind; there are {len(real.files)} real ones and "
                f"{len(items)} prompts"
            )
        return real
