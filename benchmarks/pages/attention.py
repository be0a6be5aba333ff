"""Sparse attention's measurements as Markdown tables, from the results of ``benchmarks/attention.py`` and its like.

A table whose result is not there says so, and which command makes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pages.measured import NOT_YET, RESULTS
from pages.values import load


def attention_times_block(result: Mapping[str, Any]) -> str:
    """One row a length, one column a density: how many times faster than dense attention, and the time of that."""
    rows = sorted(result["rows"], key=lambda row: (row["length"], -row["density"]))
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    densities = sorted({row["density"] for row in rows}, reverse=True)
    by_place = {(row["length"], row["density"]): row for row in rows}
    lines = [
        "| tokens | dense | "
        + " | ".join(f"density {density:g}" for density in densities)
        + " | choosing blocks | moving q, k, v, output |",
        "|---:|---:|" + "---:|" * (len(densities) + 2),
    ]
    for length in lengths:
        there = [by_place.get((length, density)) for density in densities]
        cells = [
            NOT_YET if row is None else f"{row['speedup']:.2f}x [{row['speedup_min']:.2f}, {row['speedup_max']:.2f}]"
            for row in there
        ]
        first = next(row for row in there if row is not None)
        beside = [f"{first[what] / first['dense_ms']:.1%}" for what in ("choose_ms", "move_ms")]
        lines.append(f"| {length:,} | {first['dense_ms']:.1f} ms | {' | '.join([*cells, *beside])} |")
    settings, machine = result["settings"], result["environment"]
    lines += [
        "",
        f"Times faster than `scaled_dot_product_attention`: median and range of {settings['repeats']} rounds; "
        f"{settings['heads']} heads of {settings['head_dim']}, {settings['dtype']}, blocks of {settings['block']}, "
        f"{machine['torch_threads']} thread of {machine['cpu']}, torch {machine['packages']['torch']}. Choosing (the "
        "means of blocks and the best of them) and moving into an order of each head's own and back are not in it: "
        "they are shares of the dense time.",
    ]
    for length in lengths:
        quicker = [density for density in densities if _speedup(by_place, length, density) > 1]
        slower = [density for density in densities if 0 < _speedup(by_place, length, density) <= 1]
        lines += ["", _crossing(length, quicker, slower)]
    return "\n".join(lines)


def _speedup(by_place: Mapping[tuple[int, float], Mapping[str, Any]], length: int, density: float) -> float:
    """Of a length and a density; 0: not measured."""
    return float(by_place[length, density]["speedup"]) if (length, density) in by_place else 0.0


def _crossing(length: int, quicker: Sequence[float], slower: Sequence[float]) -> str:
    """At which of the measured densities skipping pays at a length."""
    if not slower:
        return f"At {length:,} tokens the median is quicker at every density that was measured."
    if not quicker:
        return f"At {length:,} tokens the median is quicker at none."
    names = " and ".join(f"{density:g}" for density in quicker), " and ".join(f"{density:g}" for density in slower)
    return f"At {length:,} tokens the median is quicker at {names[0]}, and not at {names[1]}."


def attention_quality_block(result: Mapping[str, Any]) -> str:
    """One row for each technique, order and density: what was left out, and how far the videos are from dense ones."""
    lines = [
        "| technique | order of tokens | density | videos | scores left out | PSNR | ST-LPIPS | flicker | "
        "moves as asked | dense does |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        order = row["order"] + (", every second step cached" if row["cached"] and row["order"] else "")
        distance = f"{row['st_lpips']:.4f}" if row.get("st_lpips") is not None else ""
        videos = len(row["per_video"]["psnr_db"])
        plain = result["plain_motion_right"][:videos]
        lines.append(
            f"| {row['technique']} | {order} | {row['density']:g} | {videos} | {row['not_computed_frac']:.0%} | "
            f"{row['psnr_db']:.1f} dB | {distance} | {row['flicker_ratio']:.2f}x | {row['motion_right']:.0%} | "
            f"{sum(plain) / len(plain):.0%} |"
        )
    settings = result["settings"]
    rival = (
        " The rival is the plain pipeline in 16 of 20 steps: 36 % of its multiplications are scores and what they "
        "weigh, so that a density of 0.3 saves a fifth."
        if any(row["technique"] == "fewer steps" for row in result["rows"])
        else ""
    )
    lines += [
        "",
        f"{settings['model']}, the first of {len(settings['prompts'])} held-out prompts, {settings['tokens']:,} "
        f"tokens, blocks of {settings['block']}, a fifth of the steps dense; against the same seeds computed whole. "
        "Few videos: a difference of motion by one of them is none." + rival,
        *_of_order(result["rows"]),
    ]
    return "\n".join(lines)


def _of_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What PAROAttention's orders are worth, video by video, at each density that was measured with and without."""
    own: dict[float, dict[str, Sequence[float]]] = {}
    for row in rows:
        if row["technique"] == "PAROAttention" and not row["cached"]:
            own.setdefault(row["density"], {})[row["order"]] = row["per_video"]["psnr_db"]
    lines = []
    for density, by_order in sorted(own.items(), reverse=True):
        if len(by_order) == 2:
            raster = by_order.pop("raster")
            gains = [chosen - plain for chosen, plain in zip(*by_order.values(), raster, strict=False)]
            lines.append(
                f"{density:g}: {sum(gains) / len(gains):+.2f} dB, nearer in {sum(gain > 0 for gain in gains)} of "
                f"{len(gains)} videos"
            )
    return (
        ["", f"PAROAttention's orders against the model's own at equal density: {'; '.join(lines)}."] if lines else []
    )


def attention_gpu_block(result: Mapping[str, Any]) -> str:
    """The kernels at each shape and density, against the best dense attention that was there; what was measured."""
    lines = ["| what | tokens | head | block | best dense | density | sparse | times faster | dense-equivalent |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")

    def add(what: str, row: Mapping[str, Any], density: float, ms: float | str, tflops: str = "") -> None:
        if isinstance(ms, str):
            lines.append(f"| {what} | {row['length']:,} | {row['head_dim']} | | | {density:g} | {ms} | | |")
            return
        name, dense = _best_dense(row)
        lines.append(
            f"| {what} | {row['length']:,} | {row['head_dim']} | {row.get('block', '')} | {name} {dense:.2f} ms | "
            f"{density:g} | {ms:.2f} ms | {dense / ms:.2f}x | {tflops} |"
        )

    for row in result.get("block_sparse", ()):
        for each in row["sparse"]:
            add("block-sparse", row, each["density"], each["ms"], f"{each['dense_equivalent_tflops']:.0f} TFLOPS")
    for row in result.get("sla", ()):
        add("SLA, choosing and linear branch with it", row, 0.05, row["marginal_ms"])
    for row in result.get("vmoba", ()):
        add(f"VMoBA, {row['boxes']} boxes, choosing apart", row, row["density"], row["attend_ms"])
    for row in result.get("whole_calls", ()):
        told = ", ".join(f"{e['pass']} at {e['density']:g} {row['dense_ms'] / e['ms']:.2f}x" for e in row["sparse"])
        lines += ["", f"A whole call of {row['name']}, random weights, {row['dense_ms']:.0f} ms dense: {told}."]
    return "\n".join(lines)


def _best_dense(row: Mapping[str, Any]) -> tuple[str, float]:
    """The quickest dense attention that ran, and its milliseconds."""
    dense = {name: ms for name, ms in row["dense_ms"].items() if not isinstance(ms, str)}
    best = min(dense, key=lambda name: dense[name])
    return best, dense[best]


class Paper(NamedTuple):
    """What is claimed, and what of ours stands beside it.

    Attributes:
        name: Of the technique, and its number in arXiv.
        checked: Figures that stand in its abstract or its repository, looked up for this table.
        unchecked: Figures of its text that could not be looked up again, and of others' notes on it.
        technique: Of our rows.
        order: Of our rows.
        why: They differ.
    """

    name: str
    checked: str
    unchecked: str
    technique: str
    order: str
    why: str


_PAPERS = (
    Paper(
        "PAROAttention (2506.16054)",
        "1.9 to 2.7x end to end at densities of 0.2 to 0.3, with INT8 or INT4",
        "others' notes: CogVideoX-5B, 720p, PSNR 29.14 at 0.5, 22.89 at 0.3; operator 1.73x and 2.71x FA2 (A100)",
        "PAROAttention",
        "an order for each head",
        "ours is a model of 1,024 tokens in blocks of 32, theirs of 17,776 in blocks of 64; orders by kept mass",
    ),
    Paper(
        "SparseD (2509.24014)",
        "up to 1.50x FlashAttention at 64k tokens of context and 1,024 steps, near lossless",
        "others' notes: LLaDA-1.5 67.33 to 67.62 on the mean of tasks (A800)",
        "SparseD",
        "raster",
        "made for text; taken to video by us, so the figures are of other things",
    ),
    Paper(
        "SLA (2509.24006)",
        "Wan2.1-1.3B, fine-tuned, 95 % of attention less, quality kept; attention 13.7x, end to end 2.2x",
        "its text: the 13.7x are over FA2 on an RTX 5090",
        "SLA, untrained",
        "raster",
        "untrained here: no linear branch",
    ),
    Paper(
        "VMoBA (2506.23858)",
        "untrained, high resolution: 2.40x fewer FLOPs, 1.35x quicker; gains from about 33k tokens on",
        "its text: Wan2.1-1.3B, PSNR 18.80 at 720p; 16.00 and 1.01x at 33k tokens (H800)",
        "VMoBA",
        "three kinds of boxes",
        "a quarter of the steps dense there, a fifth here",
    ),
    Paper(
        "Re-ttention (2505.22918)",
        "3.1 % of the tokens; over 45 % less time end to end, over 92 % less in self-attention (H100); its code "
        "computes all scores",
        "its text: CogVideoX-2B, PSNR 27.96, SSIM 0.894",
        "Re-ttention",
        "raster",
        "its lowest density here is 0.1; whole steps are counted here, and are not in the 3.1 %",
    ),
    Paper(
        "sliding tiles (2502.04507)",
        "Hunyuan video, 945 s to 501 s without training, against FA3",
        "",
        "static mask",
        "tiles",
        "one window for all heads here, one for each there, searched for",
    ),
    Paper(
        "radial attention (2506.19852)",
        "Wan2.1-14B 1.8x, Hunyuan video 1.9x, at the lengths they were made for",
        "",
        "static mask, radial",
        "raster",
        "the same decay over frames, cut at a density in place of a width",
    ),
)


def attention_papers_block(result: Mapping[str, Any] | None) -> str:
    """Paper's figure, ours, setting, difference explained; ours at densities 0.5 and 0.3, where it was measured."""
    lines = [
        "| technique | its abstract or repository says | not looked up at the source | "
        "ours, emoji-wan, density 0.5 | 0.3 | why they differ |",
        "|---|---|---|---|---|---|",
    ]
    rows = (
        {} if result is None else {(r["technique"], r["order"], r["cached"], r["density"]): r for r in result["rows"]}
    )
    for paper in _PAPERS:
        ours = []
        for density in (0.5, 0.3):
            row = rows.get((paper.technique, paper.order, False, density))
            ours.append(
                NOT_YET if row is None else f"{row['psnr_db']:.1f} dB, {row['not_computed_frac']:.0%} left out"
            )
        lines.append(f"| {paper.name} | {paper.checked} | {paper.unchecked} | {' | '.join(ours)} | {paper.why} |")
    return "\n".join(lines)


def attention_papers(folder: Path = RESULTS) -> str:
    """The table, with what there is of our own figures, and how quick ours is where that was measured."""
    quality, cpu, gpu = (
        load(path) if (path := folder / f"attention-{name}.json").is_file() else None
        for name in ("emoji-wan", "cpu", "gpu")
    )
    times = [f"on the CPU, against SDPA: {NOT_YET if cpu is None else _longest(cpu['rows'])}"]
    rows = [] if gpu is None else gpu.get("block_sparse", [])
    own = [
        {"length": row["length"], "density": each["density"], "speedup": _best_dense(row)[1] / each["ms"]}
        for row in rows
        for each in row["sparse"]
        if (row["head_dim"], row["block"]) == (128, 64)
    ]
    times.append(f"on a GPU, against the best dense attention: {_longest(own) if own else NOT_YET}")
    return f"{attention_papers_block(quality)}\n\nOur kernel alone, {'; '.join(times)}."


def _longest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Times faster at the longest length."""
    length = max(row["length"] for row in rows)
    there = sorted((row for row in rows if row["length"] == length), key=lambda row: -row["density"])
    return ", ".join(f"{row['speedup']:.2f}x at {row['density']:g}" for row in there) + f" ({length:,} tokens)"
