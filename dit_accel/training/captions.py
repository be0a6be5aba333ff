"""Turns concepts into weighted (image, caption) rows that a trainer draws from."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from dit_accel.training.concepts import TEMPLATE_WEIGHTS, TEMPLATES, Concept, caption

NAME_SHARE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRows:
    """All captions of all training images, as a table to draw rows from.

    Attributes:
        texts: R captions.
        image: Row's image number, int64 [R].
        weight: Probability of the row, float32 [R]; every image has the same total.
    """

    texts: list[str]
    image: torch.Tensor
    weight: torch.Tensor


def caption_rows(
    concepts: Sequence[Concept], styles: Sequence[str | None] | None = None, *, held_out: Collection[str] = ()
) -> CaptionRows:
    """List every caption of every image with its probability.

    Args:
        concepts: Concept of each image.
        styles: Style words of each image (``None`` adds none); omitted means no style anywhere.
        held_out: Captions to leave out, word for word; an image's other captions share their probability.
    """
    texts: list[str] = []
    image: list[int] = []
    weight: list[float] = []
    for k, concept in enumerate(concepts):
        names = [(concept.name, NAME_SHARE if concept.aliases else 1.0)]
        names += [(alias, (1 - NAME_SHARE) / len(concept.aliases)) for alias in concept.aliases]
        shares = {
            caption(name, template=template, style=styles[k] if styles else None): name_share * template_share
            for name, name_share in names
            for template, template_share in zip(TEMPLATES, TEMPLATE_WEIGHTS, strict=True)
        }
        kept = {text: share for text, share in shares.items() if text not in held_out}
        texts += kept
        image += [k] * len(kept)
        weight += [share / sum(kept.values()) / len(concepts) for share in kept.values()]
    return CaptionRows(texts=texts, image=torch.tensor(image), weight=torch.tensor(weight))
