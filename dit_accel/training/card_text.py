"""What the model cards of all kinds share: words for each kind, and tables out of a report."""

import dataclasses
import json
from typing import Any

from dit_accel.training.data import get_source
from dit_accel.training.recipe import EmbeddedRecipe

COUNTED = {
    "vae": "autoencoder",
    "denoiser": "text encoders and denoiser",
    "guidance": "guidance distillation",
    "decoder": "decoder refinement",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KindText:
    """What a card says of a kind of pipeline.

    Attributes:
        class_name: Pipeline class.
        tags: For the hub.
        loading: How the folder loads without us.
        objective: What was trained.
        sampler: How it is sampled.
    """

    class_name: str
    tags: tuple[str, ...]
    loading: str
    objective: str
    sampler: str


TEXTS = {
    "pixart": KindText(
        class_name="PixArtAlphaPipeline",
        tags=("pixart", "dit"),
        loading="""`DiffusionPipeline.from_pretrained(path)` loads the same folder; its call then needs
`use_resolution_binning=False`, because the stock default knows latents of 32, 64 and 128 only and refuses our 16 with
"Invalid sample size". Padding captions to the stock 120 tokens gives the same image up to rounding. Loading needs
transformers 5.""",
        objective="v-prediction on a squared-cosine schedule",
        sampler="DPM-Solver++ (2M)",
    ),
    "sd": KindText(
        class_name="StableDiffusionPipeline",
        tags=("stable-diffusion", "unet"),
        loading="""`DiffusionPipeline.from_pretrained(path)` loads the same folder and needs no special argument.
`PNDMScheduler.from_config(pipe.scheduler.config)` samples it too. CLIP takes 16 tokens: BOS, 14 pieces, EOS. Loading
needs transformers 5.""",
        objective="v-prediction on a squared-cosine schedule",
        sampler="DDIM",
    ),
    "flux": KindText(
        class_name="FluxPipeline",
        tags=("flux", "mmdit", "flow-matching"),
        loading="""`DiffusionPipeline.from_pretrained(path)` loads the same folder; its call then needs
`height=64, width=64, max_sequence_length=16`: the stock defaults are 512 pixels at our scale factor, and 512 text
tokens that are not masked. Loading needs transformers 5. As in FLUX.1-dev, guidance is an input and costs no second
call.""",
        objective="flow matching with FLUX's shift for 64 tokens, then guidance of scale 1 to 6 distilled into the "
        "guidance input (Meng et al. 2023)",
        sampler="Euler (FlowMatchEulerDiscreteScheduler)",
    ),
    "wan": KindText(
        class_name="WanPipeline",
        tags=("wan", "text-to-video", "flow-matching"),
        loading="""`DiffusionPipeline.from_pretrained(path)` loads the same folder; its call then needs
`height=64, width=64, num_frames=15, max_sequence_length=16`: the stock defaults are 480 x 832 pixels, 81 frames and
512 text tokens that are not masked, and without temporal compression its rounding adds a frame. Loading needs
transformers 5.""",
        objective="flow matching with a shift of 3, and two linear heads, left out of the pipeline, that learn to "
        "tell from the tokens of inner blocks which frame they belong to and where the sprite is",
        sampler="UniPC (UniPCMultistepScheduler)",
    ),
}
"""By ``EmbeddedRecipe.kind``."""


def cost_rows(report: dict[str, Any]) -> str:
    """Rows of the table of stages."""
    return "\n".join(
        f"| {COUNTED[s]} | {v['steps']:,.0f} | {v['minutes']} | {v['final_loss']} |" for s, v in report["cost"].items()
    )


def source_list(recipe: EmbeddedRecipe) -> str:
    """The packages and their licences."""
    return "\n".join(f"- `{get_source(s).package}`: {get_source(s).attribution}" for s in recipe.styles)


def parameter_text(counts: dict[str, int]) -> str:
    """Parameters by component."""
    return ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items() if name not in CONCEPT_COUNTS)


def note_list(report: dict[str, Any]) -> str:
    """How the run departed from the recipe."""
    return "\n".join(f"- {note}" for note in report.get("notes", []))


def settings_text(recipe: EmbeddedRecipe) -> str:
    """The whole recipe, folded."""
    return f"""<details><summary>All settings</summary>

```json
{json.dumps(dataclasses.asdict(recipe), indent=1, default=str)}
```
</details>"""


CONCEPT_COUNTS = ("train", "held_out")
