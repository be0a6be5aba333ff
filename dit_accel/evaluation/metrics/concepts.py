"""Is it the right thing? Nearest real image in feature space, top-1 and top-5."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dit_accel.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptAccuracy:
    """How often the nearest real images name the right concept.

    Attributes:
        n: Generated images judged.
        candidates: Different concepts to choose from.
        top1_frac: Share of images whose nearest concept is the right one.
        top5_frac: Share of images with the right concept among the five nearest.
        ranks: Rank of the right concept of each image, 1 is best.
    """

    n: int
    candidates: int
    top1_frac: float
    top5_frac: float
    ranks: list[int]

    @property
    def chance_top1_frac(self) -> float:
        """Top-1 of blind guessing."""
        return 1 / self.candidates

    @property
    def chance_top5_frac(self) -> float:
        """Top-5 of blind guessing."""
        return min(5 / self.candidates, 1.0)


def concept_accuracy(
    generated: torch.Tensor, wanted: Sequence[str], gallery: torch.Tensor, gallery_names: Sequence[str]
) -> ConceptAccuracy:
    """Rank the gallery's concepts by cosine similarity to each generated image.

    Features are centred on the gallery's mean first: all emoji share "small drawing on white", which would otherwise
    fill most of the cosine. A concept with several gallery images counts by its nearest one.

    Args:
        generated: Features of generated images [M, D].
        wanted: Concept each was asked for.
        gallery: Features of real images [G, D].
        gallery_names: Concept of each gallery image.

    Raises:
        ConfigError: A wanted concept is not in the gallery, or lengths differ.
    """
    if len(generated) != len(wanted) or len(gallery) != len(gallery_names):
        raise ConfigError("concept_accuracy wants one name for each image of either set.")
    names = sorted(set(gallery_names))
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise ConfigError(f"Not in the gallery: {', '.join(missing[:5])}.")
    centre = gallery.mean(dim=0)
    similarity = F.normalize(generated - centre, dim=1) @ F.normalize(gallery - centre, dim=1).T
    owner = torch.tensor([names.index(name) for name in gallery_names]).expand(len(generated), -1)
    best = torch.full((len(generated), len(names)), -2.0).scatter_reduce(1, owner, similarity, reduce="amax")
    right = torch.tensor([names.index(name) for name in wanted])
    ranks = 1 + (best > best.gather(1, right[:, None])).sum(dim=1)
    return ConceptAccuracy(
        n=len(generated),
        candidates=len(names),
        top1_frac=float((ranks <= 1).float().mean()),
        top5_frac=float((ranks <= 5).float().mean()),
        ranks=ranks.tolist(),
    )
