"""What a recipe trains on: images of concepts, or videos of subjects in motion."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dit_accel.prompts import PROMPT_LISTS, load_prompts
from dit_accel.training.captions import CaptionRows, caption_rows
from dit_accel.training.concepts import Concept, caption, split_concepts
from dit_accel.training.data import default_cache_dir, get_source, load_concepts, load_images
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.sprites import SpriteTrajectory, draw_single_frames, draw_trajectory, load_sprites, make_video
from dit_accel.training.video_prompts import VideoCaption, held_out_video_captions, training_video_captions


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


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSet(TrainingSet):
    """Videos of sprites in motion, drawn when they are wanted; ``images`` are what the autoencoder is trained on.

    Attributes:
        sprites: By subject, see ``load_sprites``.
        videos: What each video shows; a caption may come several times.
        seed: Video k is the one that the seed ``seed + k`` names.
    """

    sprites: dict[str, torch.Tensor]
    videos: list[VideoCaption]
    seed: int

    def captions(self) -> list[str]:
        """The different captions, in order."""
        return list(dict.fromkeys(video.text for video in self.videos))

    def draw_video(self, k: int) -> torch.Tensor:
        """Frames of video ``k``, uint8 [F, 3, H, W]."""
        video = self.videos[k]
        return make_video(self.sprites[video.subject], video.motion, self.seed + k)[0]

    def path(self, k: int) -> SpriteTrajectory:
        """Where the sprite of video ``k`` is."""
        return draw_trajectory(self.videos[k].motion, torch.Generator().manual_seed(self.seed + k))


def load_training_set(recipe: EmbeddedRecipe, data_dir: Path | None = None, *, held_out: bool = False) -> TrainingSet:
    """Read the images a recipe trains on (or those it must never see).

    Args:
        recipe: Names styles, categories and size.
        data_dir: Folder of the tarballs; the user's cache by default.
        held_out: Return the held-out concepts instead; of a video recipe, new videos with the ``certify`` captions.
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
    stills = TrainingSet(images=torch.stack(images), concepts=owners, styles=styles)
    return stills if recipe.video is None else _video_set(recipe, stills, data_dir, held_out=held_out)


def _video_set(recipe: EmbeddedRecipe, stills: TrainingSet, data_dir: Path, *, held_out: bool) -> VideoSet:
    video = recipe.video
    assert video is not None
    subjects = video.subjects or tuple(concept.name for concept in stills.concepts)
    sprites = load_sprites(data_dir, subjects, recipe.styles[0])
    if held_out:
        frames, videos = stills.images[:0], held_out_video_captions("certify")
    else:
        frames = draw_single_frames(sprites, video.single_frames, recipe.seed)
        videos = training_video_captions(subjects) * video.videos_per_caption
    return VideoSet(
        images=torch.cat([frames, stills.images.repeat(video.still_repeats, 1, 1, 1)]),
        concepts=stills.concepts,
        styles=stills.styles,
        sprites=dict(zip(subjects, sprites, strict=True)),
        videos=videos,
        seed=video.held_out_seed if held_out else video.video_seed,
    )


def training_captions(recipe: EmbeddedRecipe, data: TrainingSet) -> CaptionRows:
    """Captions of the training images, without those held out."""
    return caption_rows(data.concepts, data.styles, held_out=held_out_captions(recipe))


def held_out_captions(recipe: EmbeddedRecipe) -> frozenset[str]:
    """Captions that the recipe never trains on, word for word: those of the prompt lists."""
    names = PROMPT_LISTS if recipe.hold_out_prompts else ()
    return frozenset(prompt for name in names for prompt in load_prompts(name).prompts)
