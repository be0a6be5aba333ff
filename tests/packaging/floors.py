"""The table of ``docs/architecture.md``: which part of the package may import which."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from source_tree import ROOT

FLOORS: Mapping[str, tuple[str, ...]] = {
    "errors": (),
    "version": (),
    "machine": (),
    "schedules": (),
    "kernels": (),
    "registry": ("errors",),
    "families": ("errors", "schedules"),
    "plan": ("errors", "registry", "families"),
    "runtime": ("errors", "schedules", "families", "plan"),
    "passes": ("errors", "registry", "schedules", "kernels", "families", "plan", "runtime"),
    "session": ("errors", "machine", "registry", "schedules", "families", "plan", "runtime", "passes"),
    "api": ("errors", "families", "plan", "runtime", "session"),
    "embedded": ("errors",),
    "prompts": ("errors",),
    "pipelines": ("errors", "embedded"),
    "doctor": ("errors", "families", "session"),
    "evaluation": (
        "errors", "version", "machine", "schedules", "families", "plan", "runtime", "session", "api", "pipelines",
        "prompts",
    ),
    "training": ("errors", "plan", "passes", "evaluation", "pipelines", "embedded", "prompts"),
    "calibration": (
        "errors", "registry", "schedules", "kernels", "families", "plan", "runtime", "passes", "session", "api",
        "pipelines", "embedded", "prompts", "evaluation",
    ),
    "app": ("*",),
    "cli": ("*",),
}  # fmt: skip

# Inside of evaluation/, likewise.
EVALUATION: Mapping[str, tuple[str, ...]] = {
    "progress_files": (),
    "reports": (),
    "metrics": ("reports",),
    "compare": ("reports", "metrics"),
    "certify": ("progress_files", "reports", "metrics", "compare"),
    "suites": ("progress_files", "reports", "metrics", "compare"),
}

SIDE_FOLDERS = ("kernels", "schedules", "calibration", "app")


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, side folders included."""
    found = {}
    for path in sorted((ROOT / "dit_accel").rglob("*.py")):
        found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    for side in SIDE_FOLDERS:
        for path in sorted((ROOT / side).glob("*.py")):
            found[f"dit_accel.{side}.{path.stem}".removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[tuple[str, int]]:
    """The modules of the package that a file imports, anywhere in it and for whatever reason, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != "dit_accel":
                continue
            while name not in known:
                name = name.rpartition(".")[0]
            yield name, node.lineno
