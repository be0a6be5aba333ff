"""Fill the README's table of embedded pipelines from their reports, and draw the picture above it.

python benchmarks/zoo.py            # table only: reads the reports that ship
python benchmarks/zoo.py --picture  # and docs/zoo.webp: two minutes on two CPU cores
"""

import json
import sys

import readme_table
import torch

from dit_accel.embedded import embedded_path, list_embedded, load_embedded
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.prompts import load_prompts
from dit_accel.training.samples import image_sheet

MARKERS = ("<!-- zoo:begin -->", "<!-- zoo:end -->")
PICTURE = readme_table.README.parent / "docs" / "zoo.webp"
COLUMNS = 8
SEED = 0
FRAME_MS = 120
HEADER = (
    "| name | pipeline | size | steps | FD-EffNetLite0 (VAE, untrained) | concept top-1 / top-5 | motion right |",
    "|---|---|---:|---:|---:|---:|---:|",
)


def zoo_block() -> str:
    """The embedded pipelines as a Markdown table; every number is read from a report or a file's size."""
    return "\n".join([*HEADER, *(_row(name) for name in list_embedded())])


def _row(name: str) -> str:
    path = embedded_path(name)
    report = json.loads((path / "report.json").read_text())
    pipeline = json.loads((path / "model_index.json").read_text())["_class_name"]
    size_mb = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
    frechet, concepts, protocol = report["frechet"], report["concepts"]["generated"], report["protocol"]
    motion = report.get("motion")
    cells = [
        f"[`{name}`](dit_accel/embedded/{name}/README.md)",
        f"`{pipeline}`",
        f"{size_mb:.0f} MB",
        str(protocol["num_inference_steps"]),
        f"{frechet['generated']:.0f} ({frechet['reconstructed']:.0f}, {frechet['untrained']:.0f}), n = "
        f"{protocol['images']}",
        f"{concepts['top1_frac']:.1%} / {concepts['top5_frac']:.1%}, n = {concepts['n']}",
        "" if motion is None else f"{motion['generated']['direction_frac']:.0%}, n = {motion['generated']['n']}",
    ]
    return f"| {' | '.join(cells)} |"


def draw_zoo() -> None:
    """A row of pictures from each pipeline; those that make video move."""
    rows = []
    for name in list_embedded():
        pipe = load_embedded(name)
        pipe.set_progress_bar_config(disable=True)
        video = type(pipe).__name__ == "WanPipeline"
        prompts = load_prompts("demo", "video" if video else "image").prompts[:COLUMNS]
        made = generate(pipe, prompts, range(SEED, SEED + len(prompts)), GenerationSettings(), batch_size=4)
        rows.append(made if video else made[:, None])
    frames = max(row.shape[1] for row in rows)
    filled = torch.cat([row.expand(-1, frames, -1, -1, -1) for row in rows]) * 2 - 1
    pictures = [image_sheet(filled[:, k], columns=COLUMNS, zoom=2) for k in range(frames)]
    pictures[0].save(PICTURE, save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0, quality=80)


def main() -> None:
    """See the module's docstring."""
    if "--picture" in sys.argv[1:]:
        draw_zoo()
    text = readme_table.README.read_text(encoding="utf-8")
    readme_table.README.write_text(readme_table.fill(text, zoo_block(), MARKERS), encoding="utf-8")


if __name__ == "__main__":
    main()
