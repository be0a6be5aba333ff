"""What sharing a picture costs and sends, as Markdown: read from the reports of ``benchmarks/parallel*.py``."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from dit_accel.errors import ConfigError

MIB = 2**20
Cells = Sequence[Mapping[str, Any]]


def parallel_block(data: Mapping[str, Any]) -> str:
    """A table for each pipeline: PSNR to one process, and the three figures of traffic, for each number of ranks.

    Raises:
        ConfigError: It is no such report.
    """
    if data.get("format") != "dit-accel/parallel":
        raise ConfigError("this is no report of benchmarks/parallel.py")
    by_model: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in data["cells"]:
        by_model[cell["model"]].append(cell)
    lines = []
    for model, cells in by_model.items():
        lines += [*_table(model, cells), ""]
    environment = data["environment"]
    versions = ", ".join(f"{name} {environment['packages'].get(name, '?')}" for name in ("torch", "diffusers"))
    return "\n".join([*lines, f"gloo, CPU, float32; {versions}; {data['created_utc'][:10]}."])


def _table(model: str, cells: Cells) -> list[str]:
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[cell["way"], cell["ranks"]].append(cell)
    ranks = sorted({size for _, size in groups})
    counts = sorted({len(group) for group in groups.values()})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    heads = [f"{size} ranks: PSNR, dB | an evaluation | a picture | worst rank" for size in ranks]
    lines = [f"`{model}`, {cells[0]['steps']} steps, n = {n}:", ""]
    lines += [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * (4 * len(ranks))}"]
    for way in dict.fromkeys(way for way, _ in groups):
        row = [_cell(groups[way, size]) for size in ranks]
        lines.append(f"| {way} | {' | '.join(row)} |")
    return lines


def _cell(group: Cells) -> str:
    if not group:
        return "- | - | - | -"
    sent = [[sum(rank.values()) for rank in cell["sent_by_rank"]] for cell in group]
    steady = [
        sum(rank.get("steady", 0) for rank in cell["sent_by_rank"]) / max(1, cell["stale_evaluations"])
        for cell in group
    ]
    whole, worst = (_mean([measure(each) for each in sent]) for measure in (sum, max))
    late = f"{_mean(steady) / MIB:.2f}" if any(steady) else ""
    return f"{_psnr(group)} | {late} | {whole / MIB:.2f} | {worst / MIB:.2f}"


def _psnr(group: Cells) -> str:
    if all(cell["equal"] for cell in group):
        return "equal"
    largest = max(cell["largest_difference"] for cell in group)
    if largest < 1e-4:
        return f"within {largest:.0e}"
    values = [cell["psnr_db"] for cell in group]
    return f"{_mean(values):.1f} ({min(values):.1f})"


def simulator_block(data: Mapping[str, Any]) -> str:
    """Real runs on a slowed link, and what the simulator says of them.

    Raises:
        ConfigError: It is no such report.
    """
    if data.get("format") != "dit-accel/parallel-simulator":
        raise ConfigError("this is no report of benchmarks/parallel_simulator.py")
    lines = [
        "| mode | each operation takes | without delay | a rank played alone | measured | foretold | off by "
        "| hidden, measured | foretold |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in data["cells"]:
        off = cell["foretold_s"] / cell["measured_s"] - 1
        played = f"{cell['played_s']:.2f} s" if "played_s" in cell else "not measured yet"
        lines.append(
            f"| {cell['mode']} | {cell['delay_ms']:g} ms | {cell['without_delay_s']:.2f} s | {played} "
            f"| {cell['measured_s']:.2f} s | {cell['foretold_s']:.2f} s | {off:+.0%} "
            f"| {cell['hidden_measured']:.0%} | {cell['hidden_foretold']:.0%} |"
        )
    said = (
        f"`{data['model']}`, {data['ranks']} gloo ranks, {data['steps']} steps of which {data['warmup']} warm up, "
        f"median of {data['repeats']}; seconds of the denoiser; {data['created_utc'][:10]}."
    )
    return "\n".join([*lines, "", said])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
