"""Timing of one function on whatever device there is, and the dense attentions that are installed on it."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
Parts = Sequence[torch.Tensor]


def milliseconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Median of single runs, the L2 cache emptied before each; on a CPU, which only rehearses, of two."""
    if DEVICE == "cpu":
        times = []
        for _ in range(2):
            begin = time.perf_counter()
            run()
            times.append((time.perf_counter() - begin) * 1e3)
        return median(times)
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


def attempt(run: Callable[[], Any], repeats: int = 20, *, check: Callable[[Any], object] | None = None) -> float | str:
    """Milliseconds of what ``check`` has nothing against, or why there are none on this machine."""
    try:
        if check is not None:
            check(run())
        return milliseconds(run, repeats)
    except (RuntimeError, ImportError, ValueError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def peak_mib(run: Callable[[], object]) -> float | None:
    """Most memory that it took beyond what was there; ``None``: not on a GPU."""
    if DEVICE == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def dense_rivals(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> dict[str, float | str]:
    """Dense attention of every kind that is installed, [B, N, H, D]."""
    heads_first = [each.transpose(1, 2) for each in (q, k, v)]
    found: dict[str, float | str] = {"sdpa": attempt(lambda: scaled_dot_product_attention(*heads_first))}
    if DEVICE == "cuda":
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


def with_gradients(run: Callable[..., torch.Tensor], parts: Parts) -> Callable[[], object]:
    """Forward and backward of a function of q, k and v."""

    def both() -> None:
        leaves = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            run(*leaves).sum().backward()

    return both
