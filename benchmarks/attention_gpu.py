"""How fast are the sparse kernels on this GPU, against the best dense attention it has?

    python benchmarks/attention_gpu.py                 # all of it; run nothing beside it
    python benchmarks/attention_gpu.py --quick         # one length, to see that it runs
    python benchmarks/attention_gpu.py --rehearse      # tiny, on the CPU: every line of it, and no number that counts

Checks every attention kernel against fp32 before it times it. Dense-equivalent TFLOPS are those that dense attention
would need for the time taken; choosing blocks and moving tokens are timed apart, and are not in them. What is measured
is on disk after every row; called again on the same kind of GPU with the same torch, it goes on behind the last one.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from attention import random_table
from attention_checks import check, check_chosen
from attention_clock import DEVICE, DTYPE, attempt, dense_rivals, milliseconds, peak_mib, with_gradients
from attention_whole import SHAPES, TINY, whole_calls
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from dit_accel.evaluation.progress_files import read_json, write_whole
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.kernels.block_select import kept_of, mean_scores, table_of_best, table_of_mass
from dit_accel.kernels.block_sparse import attend
from dit_accel.kernels.block_sparse_flex import block_mask
from dit_accel.kernels.gather_attention import gather_attention
from dit_accel.kernels.gather_pairs import KeyBlocks
from dit_accel.kernels.gather_select import choose_best, gates
from dit_accel.kernels.low_bit import PRECISIONS
from dit_accel.kernels.low_bit_attention import low_bit_attention
from dit_accel.kernels.ordered_attention import ordered_attention
from dit_accel.kernels.pooled_scores import pooled_scores
from dit_accel.passes.attention.sla_module import SLAAttention

LENGTHS = (4096, 17_776, 32_760, 75_600)
DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
RESULT = Path(__file__).parent / "results" / "attention-gpu.json"
HEADS = 8 if DEVICE == "cuda" else 2
BOXES, BOX_DENSITY = 72, 0.25


def inputs(length: int, dim: int) -> list[torch.Tensor]:
    """q, k and v [1, N, H, D]."""
    draw = torch.Generator(DEVICE).manual_seed(0)
    return [torch.randn(1, length, HEADS, dim, generator=draw, device=DEVICE, dtype=DTYPE) for _ in range(3)]


def block_sparse(length: int, dim: int, block: int) -> dict[str, Any]:
    """All densities at one length, head size and block."""
    q, k, v = inputs(length, dim)
    tflop = 4 * length**2 * dim * HEADS / 1e12
    row: dict[str, Any] = {"length": length, "head_dim": dim, "block": block, "dense_ms": dense_rivals(q, k, v)}
    row["sparse"] = []
    heads_first = [each.transpose(1, 2) for each in (q, k, v)]
    row["sdpa_forward_backward_ms"] = attempt(with_gradients(scaled_dot_product_attention, heads_first), 5)
    places = torch.randperm(length, device=DEVICE)
    row["move_q_k_v_o_ms"] = 4 * milliseconds(lambda: q[:, places])
    row["pooled_scores_ms"] = attempt(lambda: pooled_scores(q, k, block_q=block, block_k=block), 3)
    scores = mean_scores(q, k, block_q=block, block_k=block)
    keep = kept_of(0.1, scores.shape[-1])
    row["mean_scores_ms"] = milliseconds(lambda: mean_scores(q, k, block_q=block, block_k=block))
    row["best_tenth_ms"] = milliseconds(lambda: table_of_best(scores, keep, block_q=block, block_k=block))
    weights = scores.softmax(-1)
    row["by_mass_ms"] = milliseconds(lambda: table_of_mass(weights, 0.9, block_q=block, block_k=block))
    order = torch.stack([torch.randperm(length, device=DEVICE) for _ in range(HEADS)]).int()
    compiled_flex = torch.compile(flex_attention) if DEVICE == "cuda" else flex_attention
    for density in DENSITIES:
        table = random_table(length, density, HEADS, block, seed=1).to(DEVICE)
        mask = block_mask(table, 1, HEADS, length, length)
        error = check(attend(q, k, v, table, lse=False), q, k, v, table)
        ms = milliseconds(lambda table=table: attend(q, k, v, table, lse=False))
        each: dict[str, Any] = {
            "density": density,
            "ms": ms,
            "dense_equivalent_tflops": tflop / ms * 1e3,
            "relative_error": error,
            "peak_mib": peak_mib(lambda table=table: attend(q, k, v, table, lse=False)),
            "flex_ms": attempt(lambda mask=mask: compiled_flex(*heads_first, block_mask=mask)),
            "ordered_ms": attempt(
                lambda table=table: ordered_attention(q, k, v, table, order),
                check=lambda found, table=table: check(found, q, k, v, table, order=order),
            ),
            "forward_backward_ms": attempt(
                with_gradients(lambda *parts, table=table: attend(*parts, table, lse=False), (q, k, v)), 5
            ),
        }
        for precision in PRECISIONS[1:]:
            each[f"{precision}_ms"] = attempt(
                lambda table=table, precision=precision: low_bit_attention(
                    q, k, v, table, precision=precision, lse=False
                ),
                check=lambda found, table=table, precision=precision: check(
                    found, q, k, v, table, precision=precision
                ),
            )
        row["sparse"].append(each)
    return row


def sla(length: int, dim: int, block: int) -> dict[str, Any]:
    """SLA at 95 % sparsity, its choice of blocks included."""
    q, k, v = inputs(length, dim)
    row: dict[str, Any] = {"length": length, "head_dim": dim, "block": block, "dense_ms": dense_rivals(q, k, v)}
    for scope in ("marginal", "all"):
        each = SLAAttention(dim, density=0.05, block=block, scope=scope).to(DEVICE)
        row[f"{scope}_ms"] = attempt(  # untrained: the linear branch is computed, and adds nothing
            lambda each=each: each(q, k, v), check=lambda found, each=each: check(found, q, k, v, each.table(q, k))
        )
        row[f"{scope}_forward_backward_ms"] = attempt(with_gradients(each, (q, k, v)), 5)
    sparse = SLAAttention(dim, density=0.05, block=block, linear=False).to(DEVICE)
    row["sparse_alone_ms"] = attempt(
        lambda: sparse(q, k, v), check=lambda found: check(found, q, k, v, sparse.table(q, k))
    )
    heads_first = [part.transpose(1, 2) for part in (q, k, v)]
    row["sdpa_forward_backward_ms"] = attempt(with_gradients(scaled_dot_product_attention, heads_first), 5)
    return row


def vmoba(length: int, dim: int) -> dict[str, Any]:
    """Queries that choose a quarter of 72 boxes: choosing, and attending."""
    q, k, v = inputs(length, dim)
    blocks = KeyBlocks.of(torch.arange(length, device=DEVICE) * BOXES // length)
    gate = gates(q, k, blocks)
    keep = round(BOX_DENSITY * BOXES)
    chosen = choose_best(gate, blocks.own, keep, "query")

    def run(*parts: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = gather_attention(*parts, chosen, blocks, capacity=length * keep, lse=False)
        return out

    return {
        "length": length,
        "head_dim": dim,
        "boxes": BOXES,
        "density": BOX_DENSITY,
        "dense_ms": dense_rivals(q, k, v),
        "gates_ms": attempt(lambda: gates(q, k, blocks)),
        "choose_by_query_ms": attempt(lambda: choose_best(gate, blocks.own, keep, "query")),
        "choose_by_head_ms": attempt(lambda: choose_best(gate, blocks.own, keep, "head")),
        "attend_ms": attempt(lambda: run(q, k, v), check=lambda found: check_chosen(found, q, k, v, chosen, blocks)),
        "attend_forward_backward_ms": attempt(with_gradients(run, (q, k, v)), 5),
        "peak_mib": peak_mib(lambda: run(q, k, v)),
    }


def main(
    quick: Annotated[bool, typer.Option(help="One length, one head size.")] = False,
    rehearse: Annotated[bool, typer.Option(help="Tiny, on the CPU.")] = False,
    output: Annotated[Path, typer.Option("-o", help="Where the result goes.")] = RESULT,
) -> None:
    """Check, measure, print, and write the result."""
    if DEVICE == "cpu" and not rehearse:
        raise SystemExit("error: there is no CUDA device here; --rehearse runs it tiny on the CPU")
    torch.set_grad_enabled(False)
    lengths = (260,) if rehearse else LENGTHS[:1] if quick else LENGTHS
    dims, blocks = ((64,), (64,)) if quick or rehearse else ((64, 128), (64, 128))
    result = begun(output)

    def note(kind: str, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> None:
        rows = result.setdefault(kind, [])
        if any(key.items() <= {name: row.get(name) for name in key}.items() for row in rows):
            return
        rows.append(make())
        print(kind, json.dumps(rows[-1]), flush=True)
        write_whole(output, (json.dumps(result, indent=1) + "\n").encode())

    for length in lengths:
        for dim in dims:
            key = {"length": length, "head_dim": dim}
            for block in blocks:
                note("block_sparse", {**key, "block": block}, partial(block_sparse, length, dim, block))
            note("sla", key, partial(sla, length, dim, 64))
            note("vmoba", key, partial(vmoba, length, dim))
    for name, (kind, size) in ({} if quick else TINY if rehearse else SHAPES).items():
        note("whole_calls", {"name": name}, partial(whole_calls, name, kind, size, tiny=rehearse))


def begun(output: Path) -> dict[str, Any]:
    """What was measured here before, or the head of a result."""
    result: dict[str, Any] = {
        "format": "dit-accel/attention-gpu",
        "environment": collect_environment().model_dump(),
        "command": command_line(),
        "heads": HEADS,
    }
    before = read_json(output)
    if before is None:
        return result
    here, there = ((each["environment"]["gpu"], each["environment"]["packages"]["torch"]) for each in (result, before))
    if here != there:
        raise SystemExit(f"error: '{output}' is of {there}, and this is {here}. Delete it, or name another file")
    return before


if __name__ == "__main__":
    typer.run(main)
