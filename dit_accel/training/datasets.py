"""The images and captions that a recipe trains on."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dit_accel.prompts import PROMPT_LISTS, load_prompts
from dit_accel.training.captions import CaptionRows, caption_rows
from dit_accel.training.concepts import Concept, caption, split_concepts
from dit_accel.training.data import default_cache_dir, get_source, load_concepts, load_images
from dit_accel.training.recipes import EmbeddedRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Images with their concepts.

    Attributes:
        images: uint8 [M, 3, H, W].
        concepts: Concept of each image, M of them.
        styles: Style words of each image; ``None`` where captions name no style.
    """

    images: torch.Tensor
    concepts: list[Concept]
    styles: list[str | None]

    def captions(self) -> list[str]:
        """Canonical caption of each image, ``"a red apple"``."""
        return [caption(c.name, style=s) for c, s in zip(self.concepts, self.styles, strict=True)]


def load_training_set(recipe: EmbeddedRecipe, data_dir: Path | None = None, *, held_out: bool = False) -> TrainingSet:
    """Read the images a recipe trains on (or those it must never see).

    Args:
        recipe: Names styles, categories and size.
        data_dir: Folder of the tarballs, or a file that ``pack_data`` wrote; the user's cache by default.
        held_out: Return the held-out concepts instead.
    """
    data_dir = data_dir or default_cache_dir()
    concepts = split_concepts(load_concepts(data_dir, recipe.categories))[1 if held_out else 0]
    images: list[torch.Tensor] = []
    owners: list[Concept] = []
    styles: list[str | None] = []
    for style in recipe.styles:
        found = load_images(data_dir, style, [concept.code for concept in concepts], recipe.image_size)
        present = [concept for concept in concepts if concept.code in found]
        images += [found[concept.code] for concept in present]
        owners += present
        styles += [get_source(style).style if len(recipe.styles) > 1 else None] * len(present)
    return TrainingSet(images=torch.stack(images), concepts=owners, styles=styles)


def training_captions(recipe: EmbeddedRecipe, data: TrainingSet) -> CaptionRows:
    """Captions of the training images, without those held out."""
    return caption_rows(data.concepts, data.styles, held_out=held_out_captions(recipe))


def held_out_captions(recipe: EmbeddedRecipe) -> frozenset[str]:
    """Captions that the recipe never trains on, word for word: those of the prompt lists."""
    names = PROMPT_LISTS if recipe.hold_out_prompts else ()
    return frozenset(prompt for name in names for prompt in load_prompts(name).prompts)
