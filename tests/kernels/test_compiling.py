"""Every Triton kernel becomes machine code for the GPUs that it is meant for, with none of them there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KIB = 1024
ROOM = {80: 163 * KIB, 90: 227 * KIB}
"""Shared memory of a program at the most: CUDA programming guide, compute capabilities 8.0 and 9.0."""
KERNELS = {
    "forward_kernel",
    "delta_kernel",
    "d_query_kernel",
    "d_key_kernel",
    "gather_forward_kernel",
    "gather_d_query_kernel",
    "gather_d_key_kernel",
    "merge_kernel",
    "low_bit_forward_kernel",
    "pooled_scores_kernel",
    "marginal_sums_kernel",
    "quantise_kernel",
    "gemm_kernel",
}


@pytest.mark.slow
@pytest.mark.parametrize("capability", ROOM)
def test_every_kernel_compiles_and_fits_as_it_is_launched(capability: int, tmp_path: Path) -> None:
    # The interpreter is chosen when kernels are defined, so this needs a process of its own.
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    program = [sys.executable, str(Path(__file__).with_name("compiling.py")), str(capability)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name.partition("(")[0] for name in found} == KERNELS
    too_large = {name: size for name, size in found.items() if size > ROOM[capability]}
    assert not too_large
