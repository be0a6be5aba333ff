"""Trains ``emoji-two-tower``, the judge of whether an emoji picture shows what its caption says.

Features of the frozen image network are computed once for several changed copies of each emoji; what is trained then
are two matrices, in under a minute. No picture that a pipeline of ours generated takes part: a wrong picture under its
caption would teach the judge the generator's mistakes.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from dit_accel.embedded import load_embedded
from dit_accel.evaluation.metrics.features import EffNetLite0Features, extract_features
from dit_accel.evaluation.metrics.two_tower import TwoTower, split_words
from dit_accel.training.augment import draw_variant, reconstruct
from dit_accel.training.captions import caption_rows
from dit_accel.training.concepts import Concept, split_concepts
from dit_accel.training.data import load_concepts, load_images

logger = logging.getLogger("dit_accel")

CATEGORIES = (
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "Travel & Places",
    "Activities",
    "Smileys & Emotion",
)
VAE_OF = "emoji-pixart"
LABEL_SMOOTHING = 0.1
IMAGES_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTowerRecipe:
    """All that decides the weights.

    Attributes:
        style: Drawing style, a key of ``training.data.SOURCES``.
        categories: Emoji categories; more than the pipelines draw, so that there are more words and harder choices.
        image_size: Edge, px.
        variants: Changed copies of each image, besides the clean one and its reconstruction.
        dim: Width of the common space.
        dropout: Of image features.
        steps: Training steps.
        batch_size: Concepts a step; each is the others' negative.
        lr: Peak learning rate of AdamW, one cycle.
        weight_decay: Of AdamW.
        seed: Of every draw.
    """

    style: str = "google"
    categories: tuple[str, ...] = CATEGORIES
    image_size: int = 64
    variants: int = 8
    dim: int = 256
    dropout: float = 0.3
    steps: int = 1500
    batch_size: int = 256
    lr: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTowerData:
    """What is trained on.

    Attributes:
        concepts: C training concepts.
        features: EfficientNet-Lite0 features of the clean image, its reconstruction and the changed copies,
            float32 [C, 2 + variants, 1280].
        images: The clean images in [0, 1], [C, 3, H, W].
    """

    concepts: list[Concept]
    features: torch.Tensor
    images: torch.Tensor = field(repr=False)


def load_pictures(recipe: TwoTowerRecipe, data_dir: Path, *, held_out: bool) -> tuple[list[Concept], torch.Tensor]:
    """Concepts of the training part (or the held-out part) and their images in [0, 1], [C, 3, H, W]."""
    concepts = split_concepts(load_concepts(data_dir, recipe.categories))[1 if held_out else 0]
    found = load_images(data_dir, recipe.style, [concept.code for concept in concepts], recipe.image_size)
    present = [concept for concept in concepts if concept.code in found]
    return present, torch.stack([found[concept.code] for concept in present]).float() / 255


def prepare(recipe: TwoTowerRecipe, data_dir: Path, network: torch.nn.Module | None = None) -> TwoTowerData:
    """Read the images, change them, and compute all features: most of the time that training takes.

    Args:
        recipe: Names the data and the number of copies.
        data_dir: Folder of the tarballs.
        network: ``EffNetLite0Features()``, when there is one.
    """
    network = network or EffNetLite0Features()
    vae = load_embedded(VAE_OF).vae
    concepts, images = load_pictures(recipe, data_dir, held_out=False)
    generator = torch.Generator().manual_seed(recipe.seed)
    rows = []
    for part in images.split(IMAGES_AT_ONCE):
        copies = [part, reconstruct(vae, part, generator)]
        copies += [draw_variant(part, vae, generator) for _ in range(recipe.variants)]
        flat = extract_features(network, torch.cat(copies) * 2 - 1)
        rows.append(flat.unflatten(0, (len(copies), len(part))).transpose(0, 1))
        logger.info("two-tower: features of %d of %d concepts", sum(len(row) for row in rows), len(images))
    return TwoTowerData(concepts=concepts, features=torch.cat(rows), images=images)


def train_two_tower(data: TwoTowerData, recipe: TwoTowerRecipe) -> TwoTower:
    """Train both towers with the symmetric contrastive loss (Radford et al. 2021, fig. 3; labels smoothed by 0.1).

    Returns:
        The model, frozen.
    """
    start = time.monotonic()
    torch.manual_seed(recipe.seed)
    rows = caption_rows(data.concepts)
    vocabulary = sorted({word for text in rows.texts for word in split_words(text)})
    model = TwoTower(vocabulary, dim=recipe.dim, dropout=recipe.dropout)
    flat = data.features.flatten(0, 1)
    model.mean.copy_(flat.mean(dim=0))
    model.std.copy_(flat.std(dim=0).clamp_min(1e-3))
    indicators = model.indicators(rows.texts)
    of_concept = [torch.nonzero(rows.image == k)[:, 0] for k in range(len(data.concepts))]

    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=recipe.steps)
    for step in range(recipe.steps):
        chosen = torch.randperm(len(data.concepts))[: recipe.batch_size]
        captions = torch.stack([_draw_row(rows.weight, of_concept[int(k)]) for k in chosen])
        variant = torch.randint(data.features.shape[1], (len(chosen),))
        pictures = model.embed_features(data.features[chosen, variant])
        similarity = pictures @ model.embed_words(indicators[captions]).T * model.log_scale.exp().clamp(max=100)
        target = torch.arange(len(chosen))
        loss = (
            F.cross_entropy(similarity, target, label_smoothing=LABEL_SMOOTHING)
            + F.cross_entropy(similarity.T, target, label_smoothing=LABEL_SMOOTHING)
        ) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == recipe.steps - 1:
            logger.info("two-tower: step %d, loss %.3f, %.0f s", step, loss.item(), time.monotonic() - start)
    return model.requires_grad_(False).eval()


def _draw_row(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return rows[torch.multinomial(weight[rows], 1)[0]]
