"""Sparse attention's measurements as Markdown tables, from the results of ``benchmarks/attention.py`` and its like."""

from collections.abc import Mapping
from typing import Any


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
