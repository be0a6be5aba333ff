"""Draw docs/zoo.webp, a row of pictures from each embedded pipeline: two minutes on two CPU cores.

python benchmarks/zoo.py
"""

from pathlib import Path

import torch

from dit_accel.embedded import list_embedded, load_embedded
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.prompts import load_prompts
from dit_accel.training.samples import image_sheet

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "zoo.webp"
COLUMNS = 8
SEED = 0
FRAME_MS = 120


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


if __name__ == "__main__":
    draw_zoo()
