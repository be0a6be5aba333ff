"""The pages that are filled from reports, and the numbers with a unit in them that nobody measured."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LEVEL = ("at 95 %;", "*worst 5 %*")
ARITHMETIC = ("with n = 200, between",)  # what split-conformal bounds promise of themselves

DOCUMENTS: dict[str, tuple[str, ...] | None] = {
    "README.md": (),
    "docs/measuring.md": (*LEVEL, *ARITHMETIC),
    "docs/trajectories.md": None,
    "docs/zoo.md": (),
    "docs/families.md": (),
    "docs/attention.md": None,
    "docs/distillation.md": None,
    "docs/evaluate.md": (),
    "docs/techniques.md": (),
    "docs/parallel.md": None,
    "docs/quantization.md": ("1.05 times as fast", "256 MiB"),  # what `auto` asks for, and takes at most
    # What an option does, sizes of pinned packages, what a script allows for, and two configs.
    "docs/training.md": ("after 30 minutes", "after 10 minutes", "20.8 MB", "152 MB", "ten minutes", "four times"),
}
"""Page to its exceptions: words, as they stand there, in which a number with a unit was not measured.

``None``: a page that quotes trials which left no report, beside tables that are filled.
"""
