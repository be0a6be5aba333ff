"""Times of quantised layers and pipelines, and what their plans hold, as Markdown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dit_accel.evaluation.reports.report import Report
from pages.documents import ROOT
from pages.measured import NOT_YET
from pages.values import load

PLANS = ROOT / "schedules" / "plans"
BITS = ("w8a8", "w4a8")


def whole_block(data: Mapping[str, Any]) -> str:
    """Whole runs, by the clock on the wall and by the time of the process."""
    bases = [data["rows"][f"{dtype}, plain"]["process_s"] for dtype in ("fp32", "bf16")]
    lines = [
        "| | wall clock | range | of the process | times faster than fp32 | than bf16 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in data["rows"].items():
        walls = row["walls_s"]
        cells = [
            name,
            f"{row['wall_s']:.2f} s",
            f"{min(walls):.2f} to {max(walls):.2f} s",
            f"{row['process_s']:.2f} s",
        ]
        cells += [f"{base / row['process_s']:.2f}x" for base in bases]
        lines.append(f"| {' | '.join(cells)} |")
    how = f"`{data['model']}`, {data['n']} prompts in one batch, medians of {data['rounds']} rounds in turns"
    how += ", ratios of the time of the process, which others on the machine do not lengthen"
    return "\n".join([*lines, "", f"{how}; {_where(data)}."])


def speed_block(data: Mapping[str, Any]) -> str:
    """One row a shape and dtype: the plain layer's time, and of each scheme the fastest way and how it compares."""
    columns: dict[str, None] = {}
    rows = []
    for row in data["rows"]:
        for dtype in ("float32", "bfloat16"):
            if dtype in row["us"]:
                best = _fastest(row["us"], dtype)
                columns |= dict.fromkeys(best)
                rows.append((row["shape"], dtype, row["us"][dtype], best))
    lines = [
        f"| rows, in, out | dtype | plain | {' | '.join(columns)} |",
        f"|---|---|---:|{'---:|' * len(columns)}",
    ]
    for shape, dtype, plain, best in rows:
        cells = [", ".join(f"{size:,}" for size in shape), dtype, f"{plain / 1e3:.2f} ms"]
        cells += [f"{plain / best[name][0]:.2f}x ({best[name][1]})" if name in best else "" for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"Times faster than the plain layer of that dtype, by the fastest way; {_where(data)}."]
    )


def _fastest(times: Mapping[str, float], dtype: str) -> dict[str, tuple[float, str]]:
    """Of each scheme (and of torchao's) the least time and the way that took it."""
    best: dict[str, tuple[float, str]] = {}
    for name, taken in times.items():
        scheme, _, rest = name.partition(" ")
        words = rest.split()
        if dtype not in words:
            continue
        words.remove(dtype)
        if scheme == "torchao":
            scheme = f"torchao {words.pop(0)}"
        way = " ".join(words) or "eager"
        if scheme not in best or taken < best[scheme][0]:
            best[scheme] = taken, way
    return best


def shipped_block(models: tuple[str, ...], folder: Path = PLANS) -> str:
    """The quantised plans that ship: what they hold, and what their certificates say."""
    lines = [
        "| | plan | file | layers | smoothed | rotated | bytes saved | PSNR | worst 5 % | ST-LPIPS | speed-up |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for model in models:
        for bits in BITS:
            made = folder / model / bits
            cells = [f"`{model}`", f"`{bits}`", *(_held(made) if made.is_dir() else ["none ships", "", "", ""])]
            report = made / "report.json"
            cells += _certified(load(report)) if report.is_file() else [NOT_YET, "", "", "", ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _held(folder: Path) -> list[str]:
    tensors = folder / "dit_accel_plan.safetensors"
    passes = json.loads((folder / "dit_accel_plan.json").read_text(encoding="utf-8"))["passes"]
    layers = next(each for each in passes if each["type"] == "quantize")["layers"]
    with safe_open(tensors, "pt") as file:
        smoothed = sum(name.endswith(".inverse_smooth") for name in file.keys())  # noqa: SIM118 (no mapping)
    turned = sum("had" in scheme.split("-") for scheme in layers.values())
    size = sum(each.stat().st_size for each in folder.glob("dit_accel_plan.*")) / 1e6
    return [f"{size:.1f} MB", str(len(layers)), str(smoothed), str(turned)]


def _certified(report: Report) -> list[str]:
    plan = next(variant for variant in report.variants if variant.kind == "plan")
    fidelity, speedup = plan.fidelity, plan.speedup
    assert fidelity is not None and speedup is not None and plan.effects is not None
    saved = next(each for each in plan.effects.passes if each.name == "quantize").actual_frac
    low, high = speedup.ci95 or speedup.iqr
    return [
        "" if saved is None else f"{saved:.1%} of {report.settings.dtype}",
        f"{fidelity.psnr_db.mean:.1f} dB",
        f"{fidelity.psnr_db.worst5:.1f} dB",
        "" if fidelity.st_lpips is None else f"{fidelity.st_lpips.mean:.4f}",
        f"{speedup.ratio:.2f}x [{low:.2f}, {high:.2f}]",
    ]


def _where(data: Mapping[str, Any]) -> str:
    environment = data["environment"]
    where = environment["gpu"] or f"{environment['cpu']}, {environment['torch_threads']} thread"
    packages = environment["packages"]
    torchao = f", torchao {packages['torchao']}" if "torchao" in packages else ""
    return f"{where}, torch {packages['torch']}{torchao}, {data['created_utc'][:10]}"
