"""The same on GPUs, through NCCL: two of them are needed."""

import pytest
import torch
from ranks import apart, latents_of
from tiny import tiny_call, tiny_pipeline

from dit_accel import PatchParallelConfig, accelerate_pipeline, remove_acceleration
from dit_accel.passes.patch_parallel.launch import run_on_ranks

TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def _errors(rank: int, size: int, name: str) -> dict[str, float]:
    pipe = tiny_pipeline(name).to(f"cuda:{rank}")
    call = {"num_inference_steps": 10}
    plain = latents_of(pipe(**tiny_call(name, **call)))
    found = {}
    for mode, guidance in (("sync", "auto"), ("sync", "off"), ("stale", "off"), ("partial", "off")):
        accelerate_pipeline(pipe, PatchParallelConfig(mode=mode, guidance=guidance, timeout_s=60))
        found[f"{mode}/{guidance}"] = apart(latents_of(pipe(**tiny_call(name, **call))), plain)
        remove_acceleration(pipe)
    return found


@pytest.mark.gpu
@TWO_GPUS
@pytest.mark.parametrize("name", ["pixart", "flux", "wan", "sd"])
def test_nccl(name: str) -> None:
    ranks = run_on_ranks(_errors, 2, arguments={"name": name}, timeout_s=300, method="spawn", on_gpus=True)
    for found in ranks:
        assert found["sync/auto"] < 1e-3 and found["sync/off"] < 1e-3
        assert 0 < found["stale/off"] < 1 and 0 < found["partial/off"] < 1
