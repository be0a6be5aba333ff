"""The real program in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def dit_accel(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "dit_accel", *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=240
    )


def test_help_is_quick_and_loads_no_torch(tmp_path: Path) -> None:
    start = time.perf_counter()
    done = dit_accel("--help", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    seconds = time.perf_counter() - start
    assert done.returncode == 0
    assert "generate" in done.stdout
    for heavy in ("torch", "diffusers", "transformers", "numpy", "gradio"):
        assert not any(line.endswith(f"| {heavy}") for line in done.stderr.splitlines())
    assert seconds < 5  # about 0.3 s when the machine is idle; the imports above are the real test


def test_generate_and_a_mistake(tmp_path: Path, tiny_folder: str) -> None:
    good = dit_accel("generate", "an owl", "-m", tiny_folder, "--steps", "4", "--preset", "fast", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert (tmp_path / good.stdout.strip()).is_file()
    bad = dit_accel("generate", "an owl", "-m", tiny_folder, "--preset", "fst", cwd=tmp_path)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.strip().startswith("error: unknown preset 'fst'")
    assert len(bad.stderr.strip().splitlines()) == 1
