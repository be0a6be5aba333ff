"""Time of one linear layer: in full, and in few bits by every way that there is; beside torchao where it is installed.

    taskset -c 1 python benchmarks/quant_speed.py --output benchmarks/results/quant-speed-cpu.json

On a CPU it is the time of the process, which others on the machine do not lengthen; on a GPU the wall clock, after a
synchronisation. Shapes are those of PixArt-XL, FLUX and Wan 14B on a GPU, and of the embedded pipelines on a CPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from quant_common import save
from torch import nn

from dit_accel.passes.quantize.layer import QuantLinear, Step
from dit_accel.passes.quantize.replaced import turned
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.ways import candidates
from dit_accel.passes.quantize.weights import quantise_weight

# Rows, input channels, output channels.
CPU_SHAPES = ((128, 256, 256), (512, 256, 1024), (512, 1024, 256), (1024, 192, 768), (1024, 1152, 1152))
GPU_SHAPES = (
    (8192, 1152, 1152),  # PixArt-XL, 1024 px, both guidance branches
    (8192, 1152, 4608),
    (4608, 3072, 3072),  # FLUX, 1024 px and 512 tokens of text
    (4608, 3072, 12288),
    (4608, 15360, 3072),
    (32760, 5120, 5120),  # Wan 14B, 81 frames of 480 x 832
    (32760, 5120, 13824),
)
SCHEMES = ("w8a8", "w8a8-had", "w4a8", "fp8", "w8a16")


def median_us(run: Callable[[], object], repeats: int, cuda: bool) -> float:
    """Microseconds, the median of several after three to warm up."""
    clock = time.perf_counter if cuda else time.process_time
    taken = []
    for number in range(repeats + 3):
        if cuda:
            torch.cuda.synchronize()
        start = clock()
        run()
        if cuda:
            torch.cuda.synchronize()
        if number >= 3:
            taken.append(clock() - start)
    return statistics.median(taken) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also under torch.compile")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    result: dict[str, Any] = {"unit": "us", "rows": []}
    for rows, size, outputs in GPU_SHAPES if cuda else CPU_SHAPES:
        plain = nn.Linear(size, outputs).requires_grad_(False).to(device)
        times: dict[str, float] = {}
        for dtype in (torch.bfloat16,) if cuda else (torch.float32, torch.bfloat16):
            layer, x = plain.to(dtype), torch.randn(rows, size, device=device).to(dtype)
            short = str(dtype).removeprefix("torch.")
            times[short] = median_us(lambda layer=layer, x=x: layer(x), args.repeats, cuda)  # type: ignore[misc]
            for text in SCHEMES:
                scheme = QuantScheme.parse(text)
                weight = quantise_weight(turned(layer.weight, scheme, None), scheme)
                mine = QuantLinear(layer, weight, scheme, Step())
                for choice in candidates(mine, device, "auto"):
                    mine.way = choice.way
                    name = f"{text} {choice.name} {short}"
                    times[name] = median_us(lambda mine=mine, x=x: mine(x), args.repeats, cuda)  # type: ignore[misc]
                    if args.compile:
                        fast = torch.compile(mine)
                        times[f"{name} compiled"] = median_us(lambda fast=fast, x=x: fast(x), args.repeats, cuda)  # type: ignore[misc]
            times |= torchao_times(layer, x, args.repeats, cuda, short, args.compile)
        result["rows"].append({"shape": [rows, size, outputs], "us": times})
        print(rows, size, outputs, {name: round(value) for name, value in times.items()}, flush=True)
        save(args.output, result)


def torchao_times(
    layer: nn.Linear, x: torch.Tensor, repeats: int, cuda: bool, short: str, compiled: bool
) -> dict[str, float]:
    """Its dynamic int8 and, on a GPU, its row-wise fp8; nothing where it is not installed."""
    import copy

    try:
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            Int8DynamicActivationInt8WeightConfig,
            PerRow,
            quantize_,
        )
    except ImportError:
        return {}
    configs: dict[str, Any] = {"torchao int8": Int8DynamicActivationInt8WeightConfig(version=2)}
    if cuda:
        configs["torchao fp8"] = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    found = {}
    for name, config in configs.items():
        theirs = nn.Sequential(copy.deepcopy(layer))
        quantize_(theirs, config)
        found[f"{name} {short}"] = median_us(lambda theirs=theirs: theirs(x), repeats, cuda)  # type: ignore[misc]
        if compiled:
            fast = torch.compile(theirs)
            found[f"{name} {short} compiled"] = median_us(lambda fast=fast: fast(x), repeats, cuda)  # type: ignore[misc]
    return found


if __name__ == "__main__":
    main()
