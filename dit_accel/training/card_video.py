"""The body of a video pipeline's model card; no number in it is typed by hand."""

from typing import Any

from dit_accel.training.card_text import TEXTS, cost_rows, note_list, parameter_text, settings_text, source_list
from dit_accel.training.measure_video import FRAMES_A_VIDEO
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.sprites import CANVAS_PX, DISPLACEMENT_PX, GROWTH, MOTIONS

MOTION_PARTS = ("direction", "scale", "both")
ROWS = {
    "generated": "generated",
    "reconstructed": "the autoencoder's reconstructions of real videos (the best the denoiser could reach)",
    "untrained": "an untrained denoiser",
}


def video_body(recipe: EmbeddedRecipe, report: dict[str, Any], counts: dict[str, int]) -> str:
    """The card below its front matter.

    Args:
        recipe: What was trained.
        report: From ``measure_video``, with ``cost`` and ``notes`` added.
        counts: ``train`` concepts (of the autoencoder) and parameters by component.
    """
    text, video = TEXTS[recipe.kind], recipe.video
    assert video is not None
    p, f, c, chance, vae = (report[key] for key in ("protocol", "frechet", "concepts", "chance", "autoencoder"))
    subjects = len(video.subjects) or counts["train"]
    motion = "\n".join(_motion_row(label, report["motion"][key]) for key, label in _motion_labels().items())
    directions = "\n".join(_motion_row(f"`{d}`", shares) for d, shares in report["motion_by_direction"].items())
    frames = "\n".join(
        f"| {label} | {f[key]:.1f} | {c[key]['top1_frac']:.1%} | {c[key]['top5_frac']:.1%} |"
        for key, label in ROWS.items()
    )
    return f"""# {recipe.name}

A small text-to-video pipeline (`{text.class_name}`): an emoji moves, grows and shrinks over a white ground, as the
caption says, {p["frames"]} frames of {CANVAS_PX} x {CANVAS_PX}. dit-accel trained it from nothing, so that its tests,
demos and searches have a real video denoiser where no model hub can be reached. It is a test object, not a product.

![The demo captions, which training never saw](samples.webp)

```python
from dit_accel.embedded import load_embedded

frames = load_embedded("{recipe.name}")("a red apple moves left").frames[0]
```

or `dit-accel generate --model {recipe.name} "a red apple moves left" -o apple.mp4`.

{text.loading}

## Data and licences

{subjects} subjects in {len(MOTIONS)} motions: still, left, right, up or down, and the same size, growing or shrinking.
Each caption, "a red apple moves left and grows", has {video.videos_per_caption} videos, drawn by
`dit_accel/training/sprites.py`: a straight path of {DISPLACEMENT_PX[0]:.0f} to {DISPLACEMENT_PX[1]:.0f} px, a change
of size by {GROWTH}. Every subject and every motion is trained on; the captions of the prompt lists
(`dit_accel/prompts/video`) are *combinations* that training never saw. The autoencoder also saw the still images of
{counts["train"]} concepts.

{source_list(recipe)}

The code and these weights are Apache-2.0. `ATTRIBUTION.txt` lies beside this card.

## Recipe

Parameters: {parameter_text(counts)}. Weights are stored in float16.

| stage | steps | minutes | final loss |
|---|---|---|---|
{cost_rows(report)}

{text.objective}; AdamW with cosine decay, exponential moving average, bf16 autocast,
{recipe.caption_drop:.0%} caption drop, seed {recipe.seed}. Most steps see some frames of a video only, each with the
rotary position of its true time. Sampling: {text.sampler}, {p["num_inference_steps"]} steps, guidance
{p["guidance_scale"]}. Again: `dit-accel train-embedded {recipe.name}`.

{note_list(report)}

{settings_text(recipe)}

### Why the autoencoder works frame by frame

It is an `AutoencoderKLWan` whose kernels over three frames use their last slot alone. Time is not compressed: a
quarter of the frames would leave a quarter of the {p["frames"] * (CANVAS_PX // 8) ** 2} tokens. Frame by frame it is
trained and run by two-dimensional convolutions, exactly. It reconstructs with {vae["psnr_db"]} dB PSNR. What stands
still is decoded to the same pixels in every frame; what moves flickers: from frame to frame the error changes by
{vae["flicker_of_255"]} grey levels of 255 on average, where the real frames change by {vae["real_change_of_255"]}.
Kernels over frames might smooth that; we trained none to compare.

## Measured quality

(a) Does it move as the caption says? `dit_accel/evaluation/motion.py` fits a line to the centroid and to the size of
what is not white, and judges by fixed thresholds; no model is involved. The first {p["videos"]} captions of the list
`certify`, one video each.

| videos | n | direction right | change of size right | both right |
|---|---|---|---|---|
{motion}

The generated ones by wanted direction:

| wanted | n | direction right | change of size right | both right |
|---|---|---|---|---|
{directions}

(b) {f["name"]} (squared Fréchet distance on EfficientNet-Lite0 features, **not FID**) of {p["images"]} frames,
{FRAMES_A_VIDEO} of each video, to {p["real_images"]} frames of training videos; lower is better. With fewer images
than the 1280 features the value is biased, so compare only within this table.

(c) Is it the right thing? The middle frame is cropped to its foreground, as are the {p["gallery_images"]} real frames
it is compared with, so that place and size say nothing; is the nearest one in feature space of the right subject,
among {p["candidates"]}? Chance is {chance["top1_frac"]:.1%} and {chance["top5_frac"]:.1%}.

| videos | (b) {f["name"]} | (c) top-1 | top-5 |
|---|---|---|---|
{frames}

Drawn under {p["dtype"]} autocast on {report["environment"]["device"]}, seeds {p["seed"]} onwards. The raw numbers, and
which captions went wrong, are in `report.json`.

## Limits

It knows its {subjects} subjects and {len(MOTIONS)} motions and no others: one thing at a time, on white. An unknown
word falls apart into letters that were never trained. Frames are {CANVAS_PX} x {CANVAS_PX}, and other sizes or many
more frames are outside of what it has seen.
"""


def _motion_labels() -> dict[str, str]:
    return {"real": "real videos of the same captions (is the judge right?)", **ROWS}


def _motion_row(label: str, shares: dict[str, float]) -> str:
    parts = " | ".join(f"{shares[f'{part}_frac']:.0%}" for part in MOTION_PARTS)
    return f"| {label} | {shares['n']} | {parts} |"
