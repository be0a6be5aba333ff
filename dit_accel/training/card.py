"""Writes an embedded pipeline's model card from its measured report; no number in it is typed by hand."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dit_accel.training.card_text import (
    COUNTED,
    TEXTS,
    cost_rows,
    note_list,
    parameter_text,
    settings_text,
    source_list,
)
from dit_accel.training.card_video import MOTION_PARTS, video_body
from dit_accel.training.recipe import EmbeddedRecipe


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
        report: From ``measure_pipeline`` or ``measure_video``, with ``cost`` (``run_costs``) and ``notes`` (a list of
            sentences) added.
        counts: ``train`` and ``held_out`` concepts and ``parameters`` by component.
    """
    frechet, concepts = report["frechet"], report["concepts"]["generated"]
    results = [
        _result(recipe, frechet["name"], "frechet-effnet-lite0", frechet["generated"]),
        _result(recipe, "concept top-1", "accuracy", concepts["top1_frac"]),
        _result(recipe, "concept top-5", "accuracy", concepts["top5_frac"]),
    ]
    if recipe.video is not None:
        motion = report["motion"]["generated"]
        results += [_result(recipe, f"{part} right", "accuracy", motion[f"{part}_frac"]) for part in MOTION_PARTS]
    data = ModelCardData(
        license="apache-2.0",
        library_name="diffusers",
        pipeline_tag=_task(recipe),
        tags=["emoji", *TEXTS[recipe.kind].tags, "tiny"],
        model_name=recipe.name,
        eval_results=results,
    )
    body = _body if recipe.video is None else video_body
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body(recipe, report, counts)}")
    card.save(path / "README.md")


def _task(recipe: EmbeddedRecipe) -> str:
    return "text-to-image" if recipe.video is None else "text-to-video"


def _result(recipe: EmbeddedRecipe, metric_name: str, metric_type: str, value: float) -> EvalResult:
    return EvalResult(
        task_type=_task(recipe),
        dataset_type="emoji",
        dataset_name="emoji, " + ", ".join(recipe.styles),
        metric_type=metric_type,
        metric_name=metric_name,
        metric_value=value,
    )


def _body(recipe: EmbeddedRecipe, report: dict[str, Any], counts: dict[str, int]) -> str:
    text = TEXTS[recipe.kind]
    p, f, c, chance = report["protocol"], report["frechet"], report["concepts"], report["chance"]
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
shown to any part of it. Images at 64 px on white; the captions are the emoji's names in four wordings ("a red apple",
"red apple", "an emoji of a red apple", "a picture of a red apple").{_held_out_text(recipe)}

{source_list(recipe)}

The code and these weights are Apache-2.0. `ATTRIBUTION.txt` lies beside this card.

## Recipe

Parameters: {parameter_text(counts)}. Weights are stored in float16.

| stage | steps | minutes | final loss |
|---|---|---|---|
{cost_rows(report)}

{text.objective}; AdamW with cosine decay, exponential moving average, bf16 autocast,
{recipe.caption_drop:.0%} caption drop, seed {recipe.seed}.{_vae_text(recipe)} Sampling: {text.sampler},
{p["num_inference_steps"]} steps, guidance {p["guidance_scale"]}. Again: `dit-accel train-embedded {recipe.name}`.

{note_list(report)}

{settings_text(recipe)}

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
        " No caption of the prompt lists\n(`dit_accel/prompts/image`) was trained on word for word: of a training "
        "concept the pipeline has seen other wordings."
    )


def _vae_text(recipe: EmbeddedRecipe) -> str:
    if recipe.vae_source is None:
        return ""
    return f" The autoencoder is that of `{recipe.vae_source}`, as it is."


_ACCURACY_ROWS = {
    "generated": "generated, training concepts",
    "reconstructed": "the VAE's reconstructions of the same images",
    "untrained": "an untrained denoiser",
    "held_out": "generated, held-out captions (few of their words were ever seen)",
}
