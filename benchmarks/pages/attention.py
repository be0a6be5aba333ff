"""Sparse attention's measurements as Markdown tables, from the results of ``benchmarks/attention.py`` and its like.

A table whose result is not there says so, and which command makes it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pages.documents import ROOT
from pages.values import load

RESULTS = ROOT / "benchmarks" / "results"
NOT_YET = "not measured yet"


def if_measured(name: str, command: str, block: Callable[[Mapping[str, Any]], str], folder: Path = RESULTS) -> str:
    """A block of a result, or what makes that.

    Args:
        name: Of the result's file.
        command: That writes it.
        block: From the result to Markdown.
        folder: Of results.
    """
    path = folder / name
    return block(load(path)) if path.is_file() else f"Not measured yet: `{command}`."


def attention_times_block(result: Mapping[str, Any]) -> str:
    """One row a length, one column a density: how many times faster than dense attention, and the time of that."""
    lengths = list(dict.fromkeys(row["length"] for row in result["rows"]))
    densities = list(dict.fromkeys(row["density"] for row in result["rows"]))
    by_place = {(row["length"], row["density"]): row for row in result["rows"]}
    lines = [
        "| tokens | dense | " + " | ".join(f"density {density:g}" for density in densities) + " |",
        "|---:|---:|" + "---:|" * len(densities),
    ]
    for length in lengths:
        rows = [by_place[length, density] for density in densities]
        cells = [f"{row['speedup']:.2f}x [{row['speedup_min']:.2f}, {row['speedup_max']:.2f}]" for row in rows]
        lines.append(f"| {length:,} | {rows[0]['dense_ms']:.1f} ms | {' | '.join(cells)} |")
    settings, machine = result["settings"], result["environment"]
    lines += [
        "",
        f"Times faster than `scaled_dot_product_attention`: median and range of {settings['repeats']} rounds; "
        f"{settings['heads']} heads of {settings['head_dim']}, {settings['dtype']}, blocks of {settings['block']}, "
        f"{machine['torch_threads']} thread of {machine['cpu']}, torch {machine['packages']['torch']}.",
    ]
    return "\n".join(lines)


def attention_quality_block(result: Mapping[str, Any]) -> str:
    """One row for each technique, order and density: what was left out, and how far the videos are from dense ones."""
    lines = [
        "| technique | order of tokens | density | scores left out | PSNR | ST-LPIPS | flicker | moves as asked |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        order = row["order"] + (", every second step cached" if row["cached"] and row["order"] else "")
        distance = f"{row['st_lpips']:.4f}" if row.get("st_lpips") is not None else ""
        lines.append(
            f"| {row['technique']} | {order} | {row['density']:g} | {row['not_computed_frac']:.0%} | "
            f"{row['psnr_db']:.1f} dB | {distance} | {row['flicker_ratio']:.2f}x | {row['motion_right']:.0%} |"
        )
    settings = result["settings"]
    lines += [
        "",
        f"{settings['model']}, {settings['num']} held-out prompts, {settings['tokens']:,} tokens, blocks of "
        f"{settings['block']}, a fifth of the steps dense; against the same seeds computed whole, of which "
        f"{result['plain_motion_right']:.0%} move as asked.",
    ]
    return "\n".join(lines)


def attention_gpu_block(result: Mapping[str, Any]) -> str:
    """The block-sparse kernel at each shape and density, against the best dense attention that was there."""
    lines = ["| tokens | head | block | best dense | density | sparse | times faster | dense-equivalent |"]
    lines.append("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in result["block_sparse"]:
        dense = {name: ms for name, ms in row["dense_ms"].items() if not isinstance(ms, str)}
        best = min(dense, key=lambda name: dense[name])
        for each in row["sparse"]:
            lines.append(
                f"| {row['length']:,} | {row['head_dim']} | {row['block']} | {best} {dense[best]:.2f} ms | "
                f"{each['density']:g} | {each['ms']:.2f} ms | {dense[best] / each['ms']:.2f}x | "
                f"{each['dense_equivalent_tflops']:.0f} TFLOPS |"
            )
    return "\n".join(lines)


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
    """The table, with what there is of our own figures."""
    path = folder / "attention-emoji-wan.json"
    return attention_papers_block(load(path) if path.is_file() else None)
