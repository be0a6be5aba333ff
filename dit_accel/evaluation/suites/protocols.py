"""The evaluations by name: which prompts and real images, what is measured, and where the files come from."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.evaluation.suites.image_files import AS_IT_IS, Preparation

INCEPTION, EFFNET = "inception-v3", "effnet-lite0"
CLIP, IMAGE_REWARD, TWO_TOWER = "clip", "image-reward", "emoji-two-tower"
NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One evaluation.

    Attributes:
        name: On the command line.
        about: In one line.
        files: Which files it takes and where they come from.
        kind: What the pipeline must make.
        num: Prompts; ``None``: all of the file.
        shuffled: Whether they are drawn at random.
        per_prompt: Images or videos of each prompt.
        distances: Whether a distance to real images is measured.
        fidelity: Whether accelerated ones are compared with plain ones.
        by_category: Whether numbers are also given by category.
        network: Feature network, unless another is asked for; for videos that of frame consistency.
        judges: Of alignment, unless others are asked for.
        preparation: Of images before the feature network.
    """

    name: str
    about: str
    files: str
    kind: Literal["image", "video"] = "image"
    num: int | None = None
    shuffled: bool = False
    per_prompt: int = 1
    distances: bool = False
    fidelity: bool = False
    by_category: bool = False
    network: str = NONE
    judges: tuple[str, ...] = ()
    preparation: Preparation = AS_IT_IS


SUITES = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            Suite(
                name="coco",
                about="FID to COCO's 2014 validation images and CLIP score, on 30,000 of their captions",
                files="--prompts captions_val2014.json --reference val2014 (cocodataset.org, 2014 val)",
                num=30_000,
                shuffled=True,
                distances=True,
                network=INCEPTION,
                judges=(CLIP,),
                preparation=Preparation(crop="center", size_px=256),
            ),
            Suite(
                name="mjhq",
                about="FID to MJHQ-30K, of all and by category",
                files="--prompts meta_data.json --reference mjhq30k_imgs (Hugging Face dataset "
                "playgroundai/MJHQ-30K; the folder has one folder a category)",
                distances=True,
                by_category=True,
                network=INCEPTION,
                preparation=Preparation(size_px=299),
            ),
            Suite(
                name="parti",
                about="CLIP score and ImageReward on PartiPrompts, of all and by category",
                files="--prompts PartiPrompts.tsv (github.com/google-research/parti)",
                by_category=True,
                judges=(CLIP, IMAGE_REWARD),
            ),
            Suite(
                name="vbench",
                about="VBench-style: flickering, frame consistency and alignment of videos, by dimension",
                files="--prompts VBench_full_info.json (github.com/Vchitect/VBench)",
                kind="video",
                per_prompt=5,
                by_category=True,
                network=EFFNET,
                judges=(CLIP,),
            ),
            Suite(
                name="fidelity",
                about="how close accelerated images or videos are to the plain ones; no weights needed",
                files="--prompts FILE, or none for the shipped held-out list",
                num=200,
                fidelity=True,
            ),
        )
    }
)


def find_suite(name: str) -> Suite:
    """The evaluation called so.

    Raises:
        ConfigError: There is none.
    """
    if name not in SUITES:
        raise ConfigError(f"no evaluation '{name}'.{did_you_mean(name, SUITES)} There are: {', '.join(SUITES)}.")
    return SUITES[name]
