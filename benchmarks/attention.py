"""Where does attention that skips blocks beat attention that does not, on the CPU?

    taskset -c 1 python benchmarks/attention.py      # one thread; run nothing beside it

The block-gather path of ``dit_accel.kernels`` against PyTorch's ``scaled_dot_product_attention``, in turn in one
process, at random tables of a given density (every row of blocks reads as many, and none twice). Random blocks lie
apart, which is what a gather likes least.
"""

import json
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from dit_accel.evaluation.compare.timing import time_interleaved
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.kernels.attention import dense
from dit_accel.kernels.block_sparse import attend
from dit_accel.kernels.block_table import BlockTable, num_blocks

FORMAT = "dit-accel/attention"
LENGTHS = (1024, 4096, 16384)
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)
RESULT = Path(__file__).parent / "results" / "attention-cpu.json"


def random_table(length: int, density: float, heads: int, block: int, seed: int) -> BlockTable:
    """Every block of queries reads the same share of the blocks of keys, at least one, drawn at random."""
    blocks = num_blocks(length, block)
    kept = max(1, round(density * blocks))
    scores = torch.rand(1, heads, blocks, blocks, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.topk(kept).indices, True)
    return BlockTable.from_mask(mask, block_q=block, block_k=block)


def measure(length: int, *, heads: int, dim: int, block: int, repeats: int) -> list[dict[str, Any]]:
    """Times of all densities at one length, and of dense attention between them."""
    draw = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(1, length, heads, dim, generator=draw) for _ in range(3))
    tables = {density: random_table(length, density, heads, block, seed=1) for density in DENSITIES}
    runs: dict[str, Any] = {"dense": lambda: dense(q, k, v)}
    for density, table in tables.items():
        runs[f"{density:g}"] = lambda table=table: attend(q, k, v, table, lse=False)
    times = time_interleaved(runs, repeats=repeats)
    found = []
    for density, table in tables.items():
        own, other = times[f"{density:g}"], times["dense"]
        ratios = sorted(before / after for before, after in zip(other, own, strict=True))
        found.append(
            {
                "length": length,
                "density": density,
                "density_of_the_table": table.density(length, length),
                "dense_ms": median(other) * 1e3,
                "sparse_ms": median(own) * 1e3,
                "speedup": median(ratios),
                "speedup_min": ratios[0],
                "speedup_max": ratios[-1],
            }
        )
    return found


def main(
    output: Annotated[Path, typer.Option("-o", help="Where the result goes.")] = RESULT,
    repeats: Annotated[int, typer.Option(help="Timed runs of each.")] = 7,
    heads: Annotated[int, typer.Option(help="Heads.")] = 2,
    dim: Annotated[int, typer.Option(help="Size of a head.")] = 64,
    block: Annotated[int, typer.Option(help="Tokens in a block.")] = 64,
) -> None:
    """Measure, print, and write the result."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rows = []
    for length in LENGTHS:
        for row in measure(length, heads=heads, dim=dim, block=block, repeats=repeats):
            rows.append(row)
            print(
                f"{length:>6} tokens, density {row['density']:.2f}: {row['dense_ms']:8.1f} -> "
                f"{row['sparse_ms']:8.1f} ms, {row['speedup']:.2f}x "
                f"[{row['speedup_min']:.2f}, {row['speedup_max']:.2f}]"
            )
    result = {
        "format": FORMAT,
        "environment": collect_environment().model_dump(),
        "command": command_line(),
        "settings": {"heads": heads, "head_dim": dim, "block": block, "dtype": "float32", "repeats": repeats},
        "rows": rows,
    }
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
