"""Options that several commands share, each said once."""

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|FOLDER|HUB-ID",
        help="An embedded pipeline (emoji-pixart, -sd, -flux, -wan), a diffusers folder, or a hub id such as "
        "PixArt-alpha/PixArt-XL-2-512x512.",
    ),
]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to run. auto: the GPU where there is one.")
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="auto|float32|float16|bfloat16",
        help="Type of the weights. auto: bfloat16 on a GPU, float32 on the CPU.",
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Scheduler steps. Default: the pipeline's own.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale. Default: the pipeline's own.")]
Seed = Annotated[int, typer.Option(help="Of the first image; the next ones count up.")]
Height = Annotated[int | None, typer.Option(min=1, help="Pixels. Default: the pipeline's own.")]
Width = Annotated[int | None, typer.Option(min=1, help="Pixels. Default: the pipeline's own.")]
Strict = Annotated[bool, typer.Option("--strict", help="Make every warning about the plan an error.")]
Json = Annotated[bool, typer.Option("--json", help="Only JSON on stdout; what is said to you goes to stderr.")]

Attention = Annotated[
    bool, typer.Option("--attention", help="Masks for self-attention instead; --plan: the plan to put them into.")
]
Density = Annotated[
    list[float] | None,
    typer.Option(min=0, max=1, help="With --attention: share of blocks to compute; repeatable. Default: 0.5, 0.3."),
]
Mass = Annotated[
    list[float] | None,
    typer.Option(min=0, max=1, help="With --attention: share of each head's weight to keep instead; repeatable."),
]
Block = Annotated[int, typer.Option(help="With --attention: tokens in a block: 16, 32, 64 or 128.")]
Parts = Annotated[int, typer.Option(min=1, help="With --attention: parts of a run, each with masks of its own.")]
DenseSteps = Annotated[
    float, typer.Option(min=0, max=1, help="With --attention: share of the steps, from the first on, left dense.")
]

DEFAULT_MODEL = "emoji-pixart"
