"""Plans by theory beside evenly spaced caching, as Markdown: read from ``benchmarks/results/theory.json``."""

from collections.abc import Mapping, Sequence
from typing import Any

from dit_accel.errors import ConfigError

METRICS = {"psnr_db": ("PSNR, dB", 1, True), "st_lpips": ("ST-LPIPS", 4, False)}
RIVAL, OURS = "even caching", "ours"


def theory_block(data: Mapping[str, Any]) -> str:
    """A table for each pipeline, bold where nothing in the column is better, and how often ours is.

    Raises:
        ConfigError: It is no such report.
    """
    if data.get("format") != "dit-accel/theory":
        raise ConfigError("this is no report of benchmarks/theory.py")
    environment, models = data["environment"], data["models"]
    lines = []
    for model in models:
        lines += [_title(model), "", *_table(model), ""]
    versions = ", ".join(f"{name} {environment['packages'].get(name, '?')}" for name in ("torch", "diffusers"))
    lines.append(
        f"Held-out list `{data['prompts']}`, means, and of PSNR [95 % interval]; {environment['cpu']}, CPU, float32; "
        f"{versions}, {data['created_utc'][:10]}."
    )
    return "\n".join([*lines, "", *(verdict for name in METRICS if (verdict := _verdict(models, name)))])


def _title(model: Mapping[str, Any]) -> str:
    return (
        f"`{model['name']}`, {model['scheduler']}, {model['num_inference_steps']} steps, {model['prediction_type']}, "
        f"n = {model['n']} {model['makes']}:"
    )


def _table(model: Mapping[str, Any]) -> list[str]:
    cells = {(cell["speedup"], cell["rule"]): cell for cell in model["cells"]}
    speeds, rules = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    heads = [f"{speed:g}x: {cells[speed, rules[0]]['computed']} computed" for speed in speeds]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for rule in rules:
        row = [_cell(cells.get((speed, rule)), [cells.get((speed, other)) for other in rules]) for speed in speeds]
        lines.append(f"| {rule} | {' | '.join(row)} |")
    return lines


def _cell(cell: Mapping[str, Any] | None, column: Sequence[Mapping[str, Any] | None]) -> str:
    if cell is None:
        return "-"
    words = []
    for name, (_, digits, higher) in METRICS.items():
        if name not in cell:
            continue
        means = [other[name]["mean"] for other in column if other is not None]
        best = cell[name]["mean"] == (max if higher else min)(means)
        text = f"{cell[name]['mean']:.{digits}f}"
        text = f"**{text}**" if best else text
        if higher:
            low, high = cell[name]["ci95"]
            text += f" [{low:.{digits}f}, {high:.{digits}f}]"
        words.append(text)
    return "<br>".join(words)


def _verdict(models: Sequence[Mapping[str, Any]], name: str) -> str:
    """``By PSNR ours is better than even caching in 15 of 16 cells; not on emoji-wan at 1.5x.``"""
    label, _, higher = METRICS[name]
    lost, count = [], 0
    for model in models:
        means = {(cell["speedup"], cell["rule"]): cell[name]["mean"] for cell in model["cells"] if name in cell}
        for speed in dict.fromkeys(speed for speed, _ in means):
            if (speed, OURS) not in means or (speed, RIVAL) not in means:
                continue
            count += 1
            own, other = means[speed, OURS], means[speed, RIVAL]
            if not (own > other if higher else own < other):
                lost.append(f"`{model['name']}` at {speed:g}x")
    if not count:
        return ""
    words = f"- By {label.split(',')[0]} ours is better than even caching in {count - len(lost)} of {count} cells"
    where = f"; not on {', '.join(lost)}" if lost else ""
    return f"{words}{where}."
