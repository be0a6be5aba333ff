"""Where does attention that skips blocks beat attention that does not, on the CPU?

    taskset -c 1 python benchmarks/attention.py      # one thread; run nothing beside it
    taskset -c 1 python benchmarks/attention.py --length 4096 --density 0.3 --repeats 5       # the one that must win

The block-gather path of ``dit_accel.kernels`` against PyTorch's ``scaled_dot_product_attention``, in turn in one
process, at random tables of a given density (every row of blocks reads as many, and none twice). Random blocks lie
apart, which is what a gather likes least. Choosing blocks by their means, and moving q, k, v and the output into an
order of each head's own and back, are timed apart. Every length is in the result as soon as it is measured; called
again with the same settings, what is there is not measured again.
"""

import json
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from dit_accel.evaluation.compare.timing import time_interleaved
from dit_accel.evaluation.progress_files import read_json, write_whole
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.kernels.attention import dense
from dit_accel.kernels.block_select import kept_of, mean_scores, table_of_best
from dit_accel.kernels.block_sparse import attend
from dit_accel.kernels.block_table import BlockTable, num_blocks
from dit_accel.kernels.ordered_attention import moved

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


def measure(
    length: int, densities: list[float], *, heads: int, dim: int, block: int, repeats: int
) -> list[dict[str, Any]]:
    """Times of some densities at one length, and of dense attention, choosing and moving between them."""
    draw = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(1, length, heads, dim, generator=draw) for _ in range(3))
    tables = {density: random_table(length, density, heads, block, seed=1) for density in densities}
    keep = kept_of(0.3, num_blocks(length, block))
    there = torch.stack([torch.randperm(length, generator=draw) for _ in range(heads)], -1)  # [N, H]

    def choose() -> None:
        table_of_best(mean_scores(q, k, block_q=block, block_k=block), keep, block_q=block, block_k=block)

    def move() -> None:
        for each in (q, k, v, v):
            moved(each, there)

    runs: dict[str, Any] = {"dense": lambda: dense(q, k, v), "choose": choose, "move": move}
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
                "choose_ms": median(times["choose"]) * 1e3,
                "move_ms": median(times["move"]) * 1e3,
                "speedup": median(ratios),
                "speedup_min": ratios[0],
                "speedup_max": ratios[-1],
            }
        )
    return found


def main(
    output: Annotated[Path, typer.Option("-o", help="Where the result goes.")] = RESULT,
    lengths: Annotated[list[int], typer.Option("--length", help="Tokens; repeatable.")] = list(LENGTHS),  # noqa: B006
    densities: Annotated[list[float], typer.Option("--density", help="Repeatable.")] = list(DENSITIES),  # noqa: B006
    repeats: Annotated[int, typer.Option(help="Timed runs of each.")] = 7,
    heads: Annotated[int, typer.Option(help="Heads.")] = 2,
    dim: Annotated[int, typer.Option(help="Size of a head.")] = 64,
    block: Annotated[int, typer.Option(help="Tokens in a block.")] = 64,
) -> None:
    """Measure, print, and write the result."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    result: dict[str, Any] = {
        "format": FORMAT,
        "environment": collect_environment().model_dump(),
        "command": command_line(),
        "settings": {"heads": heads, "head_dim": dim, "block": block, "dtype": "float32", "repeats": repeats},
    }
    rows = rows_so_far(output, result)
    for length in lengths:
        missing = [each for each in densities if not any((r["length"], r["density"]) == (length, each) for r in rows)]
        if not missing:
            continue
        for row in measure(length, missing, heads=heads, dim=dim, block=block, repeats=repeats):
            rows.append(row)
            print(
                f"{length:>6} tokens, density {row['density']:.2f}: {row['dense_ms']:8.1f} -> "
                f"{row['sparse_ms']:8.1f} ms, {row['speedup']:.2f}x "
                f"[{row['speedup_min']:.2f}, {row['speedup_max']:.2f}]",
                flush=True,
            )
        rows.sort(key=lambda row: (row["length"], -row["density"]))
        write_whole(output, (json.dumps({**result, "rows": rows}, indent=1) + "\n").encode())


def rows_so_far(output: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """What a file holds that was measured with the same settings, on the same processor, by the same torch."""
    before = read_json(output)
    if before is None:
        return []
    if _same(before) != _same(result):
        raise SystemExit(f"error: '{output}' was measured otherwise: {_same(before)}. Delete it, or name another file")
    return list(before["rows"])


def _same(result: dict[str, Any]) -> dict[str, Any]:
    machine = result["environment"]
    return {**result["settings"], "cpu": machine["cpu"], "torch": machine["packages"]["torch"]}


if __name__ == "__main__":
    typer.run(main)
