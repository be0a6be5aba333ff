"""Writes an embedded pipeline's model card from its measured report; no number in it is typed by hand."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

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
        objective="flow matching with a shift of 3",
        sampler="UniPC (UniPCMultistepScheduler)",
    ),
}
"""By ``EmbeddedRecipe.kind``."""


def run_costs(run_dir: Path) -> dict[str, dict[str, float]]:
    """Minutes, steps and final loss of each stage, from the logs of a run."""
    costs = {}
    for stage in COUNTED:
        log = run_dir / f"{stage}.log.jsonl"
        if log.exists():
            last = json.loads(log.read_text().splitlines()[-1])
            costs[stage] = {
                "steps": last["step"],
                "minutes": round(last["train_seconds"] / 60, 1),
                "final_loss": round(last["loss"], 4),
            }
    return costs


def write_card(path: Path, recipe: EmbeddedRecipe, report: dict[str, Any], counts: dict[str, int]) -> None:
    """Write ``README.md`` into the pipeline's folder.

    Args:
        path: The exported pipeline; ``samples.png`` and ``report.json`` are expected beside the card.
        recipe: What was trained.
        report: From ``measure_pipeline``, with ``cost`` (``run_costs``) and ``notes`` (a list of sentences) added.
        counts: ``train`` and ``held_out`` concepts and ``parameters`` by component.
    """
    frechet, concepts = report["frechet"], report["concepts"]["generated"]
    results = [
        _result(recipe, frechet["name"], "frechet-effnet-lite0", frechet["generated"]),
        _result(recipe, "concept top-1", "accuracy", concepts["top1_frac"]),
        _result(recipe, "concept top-5", "accuracy", concepts["top5_frac"]),
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["emoji", *TEXTS[recipe.kind].tags, "tiny"],
        model_name=recipe.name,
        eval_results=results,
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(recipe, report, counts)}")
    card.save(path / "README.md")


def _result(recipe: EmbeddedRecipe, metric_name: str, metric_type: str, value: float) -> EvalResult:
    return EvalResult(
        task_type="text-to-image",
        dataset_type="emoji",
        dataset_name="emoji, " + ", ".join(recipe.styles),
        metric_type=metric_type,
        metric_name=metric_name,
        metric_value=value,
    )


def _body(recipe: EmbeddedRecipe, report: dict[str, Any], counts: dict[str, int]) -> str:
    text = TEXTS[recipe.kind]
    p, f, c, chance = report["protocol"], report["frechet"], report["concepts"], report["chance"]
    sources = "\n".join(f"- `{get_source(s).package}`: {get_source(s).attribution}" for s in recipe.styles)
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items() if name not in _CONCEPT_COUNTS)
    costs = "\n".join(
        f"| {COUNTED[s]} | {v['steps']:,.0f} | {v['minutes']} | {v['final_loss']} |" for s, v in report["cost"].items()
    )
    notes = "\n".join(f"- {note}" for note in report.get("notes", []))
    accuracy = "\n".join(
        f"| {label} | {c[key]['n']} | {c[key]['top1_frac']:.1%} | {c[key]['top5_frac']:.1%} |"
        for key, label in _ACCURACY_ROWS.items()
    )
    return f"""# {recipe.name}

A small text-to-image pipeline (`{text.class_name}`) that draws emoji of animals and foods at
{recipe.image_size} x {recipe.image_size}. dit-accel trained it from nothing, so that its tests, demos and searches
have a real denoiser where no model hub can be reached. It is a test object, not a product.

![24 training captions, seed 1000 onwards](samples.png)

```python
from dit_accel.embedded import load_embedded

image = load_embedded("{recipe.name}")("a red apple").images[0]
```

{text.loading}

## Data and licences

{counts["train"]} concepts for training; {counts["held_out"]} more (a tenth, chosen by hash of the name) were never
shown to any part of it.{_held_out_text(recipe)} Images at 64 px on white; the captions are the emoji's names in four
wordings ("a red apple", "red apple", "an emoji of a red apple", "a picture of a red apple").

{sources}

The code and these weights are Apache-2.0. `ATTRIBUTION.txt` lies beside this card.

## Recipe

Parameters: {parts}. Weights are stored in float16.

| stage | steps | minutes | final loss |
|---|---|---|---|
{costs}

{text.objective}; AdamW with cosine decay, exponential moving average, bf16 autocast,
{recipe.caption_drop:.0%} caption drop, seed {recipe.seed}.{_vae_text(recipe)} Sampling: {text.sampler},
{p["num_inference_steps"]} steps, guidance {p["guidance_scale"]}. Again: `dit-accel train-embedded {recipe.name}`.

{notes}

<details><summary>All settings</summary>

```json
{json.dumps(dataclasses.asdict(recipe), indent=1, default=str)}
```
</details>

## Measured quality

(a) {f["name"]} (squared Fréchet distance on EfficientNet-Lite0 features, **not FID**) of {p["images"]} images to the
{p["real_images"]} training images; lower is better. All three sets have {p["images"]} images, in turns over the
captions; with fewer images than the 1280 features the value is biased, so compare only within this table.

| images | {f["name"]} |
|---|---|
| generated | {f["generated"]:.1f} |
| the VAE's reconstructions of the training images (the best the denoiser could reach) | {f["reconstructed"]:.1f} |
| an untrained denoiser | {f["untrained"]:.1f} |

(b) Is the nearest real emoji in feature space the right one, among {p["candidates"]} concepts?

| images | n | top-1 | top-5 |
|---|---|---|---|
{accuracy}
| chance | | {chance["top1_frac"]:.1%} | {chance["top5_frac"]:.1%} |

Drawn under {p["dtype"]} autocast on {report["environment"]["device"]}, seeds {p["seed"]} onwards, one image a caption
for (b). The raw numbers are in `report.json`.

## Limits

It knows the words of its {counts["train"]} training concepts and no others; an unknown word falls apart into letters
that were never trained. It does not compose ("a red banana"), and it mostly repeats the emoji it has seen: that is
what several hundred passes over {counts["train"]} images teach.
"""


def _held_out_text(recipe: EmbeddedRecipe) -> str:
    if not recipe.hold_out_prompts:
        return ""
    return (
        "\nNo caption of the prompt lists (`dit_accel/prompts/image`) was trained on word for word: of a"
        "\ntraining concept the pipeline has seen other wordings.\n\n"
    )


def _vae_text(recipe: EmbeddedRecipe) -> str:
    if recipe.vae_source is None:
        return ""
    return f" The autoencoder is that of `{recipe.vae_source}`, as it is."


_CONCEPT_COUNTS = ("train", "held_out")
_ACCURACY_ROWS = {
    "generated": "generated, training captions",
    "reconstructed": "the VAE's reconstructions of the same images",
    "untrained": "an untrained denoiser",
    "held_out": "generated, held-out captions (few of their words were ever seen)",
}
