"""The real images of an evaluation, and distances to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.distances import set_distances
from dit_accel.evaluation.reports.records import Distance, Skipped
from dit_accel.evaluation.suites import score
from dit_accel.evaluation.suites.score import Scorer

if TYPE_CHECKING:
    import torch

LEAST_IMAGES = 4  # of which a kernel distance can be estimated


@dataclass(frozen=True, slots=True, kw_only=True)
class RealFolder:
    """Where real images are.

    Attributes:
        folder: The folder.
        files: All images in it.
    """

    folder: Path
    files: Sequence[Path]

    @property
    def name(self) -> str:
        """For reports."""
        return self.folder.absolute().name


@dataclass(frozen=True, slots=True, kw_only=True)
class RealImages:
    """What is known of them.

    Attributes:
        scorer: Whose network's features they are.
        folder: Where they are.
        features: [M, D].
        names: Of the images, by their place in the folder.
        skipped: What could not be read.
    """

    scorer: Scorer
    folder: RealFolder
    features: "torch.Tensor"
    names: Sequence[str]
    skipped: Sequence[Skipped]

    @classmethod
    def collect(cls, scorer: Scorer, real: RealFolder) -> "RealImages":
        """Join the chunks.

        Raises:
            ConfigError: Too few can be read.
        """
        import torch

        parts, names, skipped = [], [], []
        for number in range(score.num_reference_chunks(real.files)):
            found = scorer.known_reference(real.files, real.folder, number)
            if found is None:
                raise ConfigError(f"features have vanished from '{scorer.job.progress}'; run the same command again")
            parts.append(found[0])
            names += found[1]["names"]
            skipped += [Skipped(where=f"{real.name}/{name}", why=why) for name, why in found[1]["damaged"].items()]
        if len(names) < LEAST_IMAGES:
            raise ConfigError(f"'{real.folder}' has {len(names)} readable images; a distance takes {LEAST_IMAGES}")
        return cls(scorer=scorer, folder=real, features=torch.cat(parts), names=names, skipped=skipped)

    def distances(self, features: "torch.Tensor", category: str | None = None) -> tuple[Distance, ...]:
        """Both distances, to all real images or to those in the folder of a category; none where those are too few.

        Args:
            features: Of the generated images, [N, D].
            category: Name of a folder.
        """
        network, preparation = self.scorer.network, self.scorer.preparation
        assert network is not None
        truth, words = self.features, f"{len(self.features)} images of the folder '{self.folder.name}'"
        if category is not None:
            own = [place for place, name in enumerate(self.names) if name.partition("/")[0] == category]
            truth, words = truth[own], f"{len(own)} images of its folder '{category}'"
        if min(len(truth), len(features)) < LEAST_IMAGES:
            return ()
        changes = {"crop": preparation.crop_words, "resize": preparation.resize_words + network.facts.resize}
        found = set_distances(network, truth, features, reference=words)
        return tuple(distance.model_copy(update=changes) for distance in found)
