"""Ground shared by the tests: one torch thread, no network, the tests folder importable (``from tiny import ...``)."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Only this folder: the repository root would shadow the package `kernels` that diffusers imports.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    # Kernels then run through Triton's interpreter; it has to be told before diffusers imports Triton.
    os.environ.setdefault("TRITON_INTERPRET", "1")
