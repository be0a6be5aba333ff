"""Run as a program: every Triton kernel that our launchers start, compiled for a GPU that need not be there.

    TRITON_INTERPRET=0 python tests/kernels/compiling.py 90

Prints a JSON object: for each kernel and how it was started the bytes of shared memory that one program wants. What
the interpreter does not see is seen here: types that do not fit, products too small for tensor cores, programs that
want more memory than a multiprocessor has. Whether the numbers come out right is not.
"""

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from dit_accel.kernels.block_sparse import attend
from dit_accel.kernels.block_table import BlockTable
from dit_accel.kernels.gather_attention import gather_attention
from dit_accel.kernels.gather_pairs import KeyBlocks
from dit_accel.kernels.int8_linear import int8_linear
from dit_accel.kernels.low_bit import PRECISIONS, SINCE_FLOAT8, why_too_small
from dit_accel.kernels.low_bit_attention import low_bit_attention
from dit_accel.kernels.marginal_sums import marginal_sums
from dit_accel.kernels.ordered_attention import ordered_attention
from dit_accel.kernels.pooled_scores import pooled_scores

TOKENS, HEADS = 200, 2


class NoDriver:
    """Says which GPU to compile for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main() -> None:
    """Compile, and say what was compiled."""
    number = int(sys.argv[1])
    capability = divmod(number, 10)
    triton.runtime.driver.set_active(NoDriver(number))
    found: dict[str, int] = {}
    compile_only(found)
    for head_dim, block in ((16, 16), (32, 16), (16, 32), (32, 32), (64, 64), (128, 128)):
        attention(head_dim, block, capability)
    linear()
    print(json.dumps(found))


def compile_only(found: dict[str, int]) -> None:
    """From now on a kernel that is started is compiled, and no more."""
    run = JITFunction.run

    def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        constants = ", ".join(f"{name}={value}" for name, value in options.items() if not isinstance(value, type))
        found[f"{self.__name__}({constants})"] = kernel.metadata.shared
        return kernel

    JITFunction.run = compiled


def attention(head_dim: int, block: int, capability: tuple[int, int]) -> None:
    """Forward and backward, over tables, over pairs, in few bits, in an order, and the sums for calibration."""
    q, k, v = (torch.randn(1, TOKENS, HEADS, head_dim, dtype=torch.bfloat16) for _ in range(3))
    for part in (q, k, v):
        part.requires_grad_()
    side = -(-TOKENS // block)
    table = BlockTable.from_mask(torch.ones(1, HEADS, side, side, dtype=torch.bool), block_q=block, block_k=block)
    mask = torch.ones(1, TOKENS, dtype=torch.bool)
    for key_mask in (None, mask):
        out, lse = attend(q, k, v, table, key_mask=key_mask, backend="triton")
        (out.sum() + lse.sum()).backward()
    blocks = KeyBlocks.of(torch.arange(TOKENS) // block)
    chosen = torch.ones(1, HEADS, side, TOKENS, dtype=torch.bool)
    gather_attention(q, k, v, chosen, blocks, lse=False, backend="triton").sum().backward()
    with torch.no_grad():
        for precision in PRECISIONS[1:] if capability >= SINCE_FLOAT8 else ("int8", "int8+plain"):
            if why_too_small(head_dim, block, precision) is None:
                low_bit_attention(q, k, v, table, precision=precision, backend="triton")
        order = torch.arange(TOKENS, dtype=torch.int32)[None]
        ordered_attention(q, k, v, table, order, backend="triton")
        pooled_scores(q, k, block_q=block, block_k=block, backend="triton")
        marginal_sums(torch.randn(1, HEADS, side, head_dim), table, backend="triton")


def linear() -> None:
    """The products of integers."""
    x = torch.randn(96, 256, dtype=torch.bfloat16)
    weight, scale = torch.ones(128, 256, dtype=torch.int8), torch.ones(128)
    packed = torch.ones(128, 128, dtype=torch.uint8)
    steps = torch.ones(128, 4, dtype=torch.uint8)
    int8_linear(x, weight, scale, x.new_zeros(128), None, None, 0, None, 1, 8, True)
    int8_linear(x, packed, scale, None, steps, steps, 64, torch.ones(256), 64, 8, True)


if __name__ == "__main__":
    main()
