"""What quantisation costs and saves, as Markdown, from the results of ``benchmarks/quant_*.py``.

Each table is of one model; while its result is not there it says which command makes it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError
from pages.measured import RESULTS, if_measured
from pages.quant_times import shipped_block, speed_block, whole_block

MODELS = ("emoji-flux", "emoji-pixart", "emoji-sd", "emoji-wan")
DISTANCES = {"lpips": "LPIPS", "st_lpips": "ST-LPIPS"}
Block = Callable[[Mapping[str, Any]], str]

# What a result is made by: the name of its file, and the command without the model and the output.
COMMANDS = {
    "quality": ("quant-{}", "quant_quality.py {}"),
    "exact": ("quant-{}", "quant_quality.py {} --no-fit"),
    "bits": ("quant-bits-{}", "quant_bits.py {} --memory 0.25"),
    "noise": ("quant-noise-{}", "quant_noise.py {}"),
    "joint": ("quant-joint-{}", "quant_joint.py {} --with fast"),
    "flat": ("quant-flat-{}", "quant_flat.py {} --num 8"),
    "whole": ("quant-whole-{}", "quant_whole.py {}"),
}


def quality_block(data: Mapping[str, Any]) -> str:
    """Naive rows, plans that ship, and rows that were calibrated for the table."""
    rows = {name: row for name, row in data["rows"].items() if row["kind"] != "exact"}
    how = f"calibrated rows on {data['recorded']} search prompts" if _has(rows, "calibrated") else ""
    return _table("weights and activations", list(rows.items()), _how(data, "compared with fp32", how))


def exact_block(data: Mapping[str, Any]) -> str:
    """Steps at either end of the run that are computed with the weights as they were."""
    rows = [
        (f"{row['exact'][0]} at the start, {row['exact'][1]} at the end", row)
        for row in data["rows"].values()
        if row["kind"] == "exact"
    ]
    return _table("exact steps, w4a8 else", rows, _how(data, "compared with fp32"))


def bits_block(data: Mapping[str, Any]) -> str:
    """Who gets how many bits: three ways under the same budgets."""
    names = {"gram": "errors and how they add up", "diagonal": "errors alone", "decoupled": "by what layers are for"}
    shown = _distances(data["rows"].values())
    lines = [
        "| bits given by | memory, of fp32 | taken | layers | foretold error | without products | PSNR | worst "
        + "".join(f"| {DISTANCES[key]} " for key in shown)
        + "|",
        "|---|---:|---:|---|---:|---:|---:|---:|" + "---:|" * len(shown),
    ]
    for row in data["rows"].values():
        layers = ", ".join(f"{count} {scheme}" for scheme, count in sorted(row["layers"].items()))
        cells = [names[row["how"]], f"{row['memory']:.3f}", f"{row['taken']:.3f}", layers]
        cells += [f"{row['foretold']:.2e}", f"{row['foretold_alone']:.2e}"]
        lines.append(f"| {' | '.join([*cells, *_closeness(row, shown)])} |")
    return "\n".join([*lines, "", _how(data, f"layers fitted on {data['recorded']} search prompts")])


def noise_block(data: Mapping[str, Any]) -> str:
    """By how much forecasts multiply rounding noise; then what a trajectory draws, fitted with it and without."""
    kinds = data["rows"]
    heads = [f"{bits}, {what}" for bits in kinds for what in ("mean", "most")]
    lines = [f"| error of a forecast by that of a computed step | {' | '.join(heads)} |", _rule(len(heads))]
    names = dict.fromkeys(name for row in kinds.values() for name in row["noise"])
    for name in names:
        found = [row["noise"].get(name) for row in kinds.values()]
        cells = [f"{each[what]:.2f}" if each else "" for each in found for what in ("mean", "most")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cosines = ", ".join(f"{row['cosine']:.2f} at {bits}" for bits, row in kinds.items())
    what = "plans that ship" if data["shipped"] else "weights to the nearest"
    lines += ["", f"Cosine of the errors of neighbouring steps: {cosines}.", "", _how(data, what, listed="search")]
    drawn = {bits: row["pictures"] for bits, row in kinds.items() if "pictures" in row}
    if not drawn:
        return "\n".join(lines)
    words = {
        "quantised": "quantised alone",
        "no rounding": "the trajectory alone",
        "plain fit": "both, fitted on the plain model",
        "joint fit": "both, fitted on the quantised model",
    }
    shown = [(f"{bits}, {words[name]}", row) for bits, each in drawn.items() for name, row in each.items()]
    fewer = f"of {data['speedup']:g} times fewer evaluations, on {data['n']} search prompts that nothing was fitted to"
    return "\n".join([*lines, "", f"In pictures, with a trajectory {fewer}:", "", _pictures("applied", shown)])


def joint_block(data: Mapping[str, Any]) -> str:
    """A quantised plan and a preset with a trajectory: alone, put together, and found together."""
    words = {
        "quantised": "quantised alone",
        "trajectory": f"`{data['with']}` alone",
        "together": "both, each as it was found",
        "joint": "both, the trajectory fitted on the quantised model",
    }
    rows = [
        (f"{bits}: {words[name]}", scores)
        for bits, row in data["rows"].items()
        for name, scores in row["scores"].items()
    ]
    gains = ", ".join(f"{row['gain']:.2f} at {bits}" for bits, row in data["rows"].items())
    how = _how(data, "prompts that nothing was fitted to", listed="search")
    return "\n".join([_pictures("applied", rows), "", f"Largest gain of an answer fitted so: {gains}.", "", how])


def flat_block(data: Mapping[str, Any]) -> str:
    """Squared error of layers' outputs over their square, by kind of layer, and what pictures say."""
    ways = list(data["errors"]["all layers"])
    lines = [f"| layers, error of the output | {' | '.join(ways)} |", _rule(len(ways))]
    for name, row in data["errors"].items():
        cells = [name if " " in name else f"`{name}`", *(f"{row[way]:.4f}" for way in ways)]
        lines.append(f"| {' | '.join(cells)} |")
    if data["pictures"]:
        psnr = [f"{data['pictures'][way]['psnr_db']:.1f} dB" for way in ways]
        lines.append(f"| PSNR | {' | '.join(psnr)} |")
        for key in _distances(data["pictures"].values()):
            cells = [f"{data['pictures'][way][key]:.4f}" for way in ways]
            lines.append(f"| {DISTANCES[key]} | {' | '.join(cells)} |")
    kept = f"a learned transform beat what was searched in {data['learned']} of {data['layers']} layers"
    how = _how(data, f"{data['bits']}, recorded on {data['recorded']} search prompts", kept)
    return "\n".join([*lines, "", how])


def _table(first: str, rows: Sequence[tuple[str, Mapping[str, Any]]], how: str) -> str:
    shown = _distances(row for _, row in rows)
    heads = [first, "bytes, of bf16", "PSNR", "worst", *(DISTANCES[key] for key in shown)]
    lines = [f"| {' | '.join(heads)} |", _rule(len(heads) - 1)]
    for name, row in rows:
        cells = [name, f"{row['bytes'] / row['bytes_bf16']:.3f}", *_closeness(row, shown)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", how])


def _pictures(first: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    shown = _distances(row for _, row in rows)
    heads = [first, "PSNR", *(DISTANCES[key] for key in shown)]
    lines = [f"| {' | '.join(heads)} |", _rule(len(heads) - 1)]
    for name, row in rows:
        cells = [f"{row['psnr_db']:.1f} dB", *(f"{row[key]:.4f}" for key in shown)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _closeness(row: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    return [f"{row['psnr_db']:.1f} dB", f"{row['worst_psnr_db']:.1f} dB", *(f"{row[key]:.4f}" for key in shown)]


def _distances(rows: Any) -> list[str]:
    listed = list(rows)
    return [key for key in DISTANCES if listed and all(key in row for row in listed)]


def _has(rows: Mapping[str, Any], kind: str) -> bool:
    return any(row["kind"] == kind for row in rows.values())


def _rule(columns: int) -> str:
    return f"|---|{'---:|' * columns}"


def _how(data: Mapping[str, Any], *words: str, listed: str = "certify") -> str:
    steps = "its own steps" if data["steps"] is None else f"{data['steps']} steps"
    environment = data["environment"]
    where = f"{environment['cpu']}, torch {environment['packages']['torch']}, {data['created_utc'][:10]}"
    said = [f"`{data['model']}`, {steps}, n = {data['n']} prompts of `{listed}`", *(each for each in words if each)]
    return f"{'; '.join([*said, where])}."


def _safely(block: Block, data: Mapping[str, Any]) -> str:
    try:
        return block(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"not a result of benchmarks/quant_*.py: {error!r} is missing") from error


def _of_model(block: Block, kind: str, model: str, folder: Path, paths: list[Path]) -> str:
    name, command = (text.format(model) for text in COMMANDS[kind])
    made = f"benchmarks/results/{name}.json"
    whole = f"python benchmarks/{command} --output {made}"
    found = if_measured(f"{name}.json", whole, partial(_safely, block), folder)
    return found if found.startswith("Not measured") else f"{found} `{made}`."


def quant_tables(folder: Path = RESULTS) -> dict[str, Callable[[list[Path]], str]]:
    """By the name that a page asks for: ``quant-quality-emoji-flux``, ...; ``quant-speed-cpu``; ``quant-shipped``."""
    blocks: dict[str, Block] = {
        "quality": quality_block,
        "exact": exact_block,
        "bits": bits_block,
        "noise": noise_block,
        "joint": joint_block,
        "flat": flat_block,
        "whole": whole_block,
    }
    found: dict[str, Callable[[list[Path]], str]] = {
        f"quant-{kind}-{model}": partial(_of_model, block, kind, model, folder)
        for kind, block in blocks.items()
        for model in MODELS
    }
    found["quant-shipped"] = lambda paths: shipped_block(MODELS)
    for device in ("cpu", "gpu"):
        name = f"quant-speed-{device}.json"
        command = f"python benchmarks/quant_speed.py --output benchmarks/results/{name}"
        found[f"quant-speed-{device}"] = partial(_of_device, name, command, folder)
    return found


def _of_device(name: str, command: str, folder: Path, paths: list[Path]) -> str:
    found = if_measured(name, command, partial(_safely, speed_block), folder)
    return found if found.startswith("Not measured") else f"{found} `benchmarks/results/{name}`."
