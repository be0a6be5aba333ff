"""Turns concepts into weighted (image, caption) rows that a trainer draws from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

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


def caption_rows(concepts: Sequence[Concept], styles: Sequence[str | None] | None = None) -> CaptionRows:
    """List every caption of every image with its probability.

    Args:
        concepts: Concept of each image.
        styles: Style words of each image (``None`` adds none); omitted means no style anywhere.
    """
    texts: list[str] = []
    image: list[int] = []
    weight: list[float] = []
    for k, concept in enumerate(concepts):
        names = [(concept.name, NAME_SHARE if concept.aliases else 1.0)]
        names += [(alias, (1 - NAME_SHARE) / len(concept.aliases)) for alias in concept.aliases]
        for name, name_share in names:
            for template, template_share in zip(TEMPLATES, TEMPLATE_WEIGHTS, strict=True):
                texts.append(caption(name, template=template, style=styles[k] if styles else None))
                image.append(k)
                weight.append(name_share * template_share / len(concepts))
    return CaptionRows(texts=texts, image=torch.tensor(image), weight=torch.tensor(weight))


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokenize to a common length, the longest rounded up to a multiple of four.

    Returns:
        Ids and attention mask, each int64 [R, N]. The pipeline pads to 120 instead; the mask makes that equal.
    """
    batch = tokenizer(list(texts), padding="longest", pad_to_multiple_of=4, return_tensors="pt")
    return batch.input_ids, batch.attention_mask
