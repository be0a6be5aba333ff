"""How fast is the sparse kernel on this GPU, against the best dense attention it has?

    python benchmarks/attention_gpu.py                 # some minutes; run nothing beside it
    python benchmarks/attention_gpu.py --quick         # one length, to see that it runs

Checks the kernel against fp32 before it times it. Dense-equivalent TFLOPS are those that dense attention would need
for the time taken; choosing blocks and permuting tokens are timed apart, and are not in them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from attention import random_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.kernels.block_sparse import attend
from dit_accel.kernels.block_sparse_flex import block_mask
from dit_accel.kernels.block_table import BlockTable
from dit_accel.kernels.pooled_scores import pooled_scores

LENGTHS = (4096, 17_776, 32_760, 75_600)
DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
RESULT = Path(__file__).parent / "results" / "attention-gpu.json"
HEADS = 8
MAX_ERROR = 5e-3


def milliseconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Median of single runs, the L2 cache emptied before each."""
    cache = torch.empty(2**28, dtype=torch.int8, device="cuda")
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        cache.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return median(times)


def attempt(run: Callable[[], object]) -> float | str:
    """Milliseconds, or why there are none on this machine."""
    try:
        return milliseconds(run)
    except (RuntimeError, ImportError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def dense_rivals(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> dict[str, float | str]:
    """Dense attention of every kind that is installed, [B, N, H, D]."""
    heads_first = [each.transpose(1, 2) for each in (q, k, v)]
    found: dict[str, float | str] = {}
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        with sdpa_kernel(backend):
            found[f"sdpa-{name}"] = attempt(lambda: scaled_dot_product_attention(*heads_first))
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        found["flash-attn"] = "not installed"
    else:
        found["flash-attn"] = attempt(lambda: flash_attn_func(q, k, v))
    try:
        from sageattention import sageattn
    except ImportError:
        found["sageattention"] = "not installed"
    else:
        found["sageattention"] = attempt(lambda: sageattn(q, k, v, tensor_layout="NHD"))
    return found


def measure(length: int, dim: int, block: int) -> dict[str, Any]:
    """All densities at one length and head size, bf16."""
    draw = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(1, length, HEADS, dim, device="cuda", generator=draw).bfloat16() for _ in range(3))
    tflop = 4 * HEADS * length**2 * dim / 1e12
    row: dict[str, Any] = {"length": length, "dim": dim, "block": block, "dense": dense_rivals(q, k, v), "sparse": []}
    places = torch.randperm(length, device="cuda")
    row["permute_q_k_v_o_ms"] = 4 * milliseconds(lambda: q[:, places])
    if length <= LENGTHS[1]:
        row["pooled_scores_ms"] = milliseconds(lambda: pooled_scores(q, k, block_q=block, block_k=block), repeats=3)
    compiled_flex = torch.compile(flex_attention)
    for density in DENSITIES:
        table = random_table(length, density, HEADS, block, seed=1).to("cuda")
        error = checked(q, k, v, table)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ms = milliseconds(lambda table=table: attend(q, k, v, table, lse=False))
        mask = block_mask(table, 1, HEADS, length, length)
        heads_first = [each.transpose(1, 2) for each in (q, k, v)]
        row["sparse"].append(
            {
                "density": density,
                "ms": ms,
                "dense_equivalent_tflops": tflop / ms * 1e3,
                "relative_error": error,
                "peak_mib": (torch.cuda.max_memory_allocated() - before) / 2**20,
                "flex_ms": attempt(lambda mask=mask, heads=heads_first: compiled_flex(*heads, block_mask=mask)),
            }
        )
    return row


def checked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: BlockTable) -> float:
    """Relative error of the first block of queries against fp32, on the scores that the table names."""
    found = attend(q, k, v, table, lse=False)[:, : table.block_q].float()
    worst = 0.0
    for head in range(q.shape[2]):
        blocks = table.lut[0, head, 0, : int(table.counts[0, head, 0])].long()
        tokens = (blocks[:, None] * table.block_k + torch.arange(table.block_k, device="cuda")).flatten()
        tokens = tokens[tokens < k.shape[1]]
        query, key, value = q[0, : table.block_q, head].float(), k[0, tokens, head].float(), v[0, tokens, head].float()
        want = (query @ key.T * q.shape[-1] ** -0.5).softmax(-1) @ value
        worst = max(worst, float((found[0, :, head] - want).norm() / want.norm()))
    if worst > MAX_ERROR:
        raise SystemExit(f"error: the kernel is off by {worst:.1e} of the truth, allowed is {MAX_ERROR:.0e}")
    return worst


def main(
    quick: Annotated[bool, typer.Option(help="One length, one head size.")] = False,
    output: Annotated[Path, typer.Option("-o", help="Where the result goes.")] = RESULT,
) -> None:
    """Check, measure, print, and write the result."""
    if not torch.cuda.is_available():
        raise SystemExit("error: there is no CUDA device here")
    torch.set_grad_enabled(False)
    rows = []
    for length in LENGTHS[:1] if quick else LENGTHS:
        for dim in (64,) if quick else (64, 128):
            for block in (64,) if quick else (64, 128):
                rows.append(measure(length, dim, block))
                print(json.dumps(rows[-1]))
                environment = collect_environment().model_dump()
                result = {"environment": environment, "command": command_line(), "heads": HEADS, "rows": rows}
                output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
