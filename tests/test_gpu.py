"""What only a GPU can show: no host sync in the hot path, half precision, compiled rows. Skipped without one."""

import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import CompileConfig, GeneratorSpec, Schedule, StaticCacheConfig, accelerate_pipeline
from dit_accel.evaluation.compare.cost import DenoiserMeter
from dit_accel.families.pipeline import find_denoisers
from dit_accel.session.session import session_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

EVERY_2 = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))
NAMES = ["pixart", "sd", "sd3", "flux", "wan"]


def run(pipe, name: str) -> torch.Tensor:
    call = {key: _moved(value, pipe) for key, value in tiny_call(name).items()}
    return pipe(**call)[0]


def _moved(value, pipe):
    if not isinstance(value, torch.Tensor):
        return value
    dtype = find_denoisers(pipe)[0][1].dtype
    return value.to("cuda", dtype if value.is_floating_point() else value.dtype)


def on_gpu(name: str, dtype: torch.dtype):
    pipe = tiny_pipeline(name).to("cuda", dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_compute_everything_and_lossless_are_bit_equal(name: str, dtype: torch.dtype) -> None:
    pipe = on_gpu(name, dtype)
    plain = run(pipe, name)
    accelerate_pipeline(pipe, StaticCacheConfig(schedule=Schedule(6, {}), invariants=False))
    assert torch.equal(run(pipe, name), plain)
    accelerate_pipeline(pipe, "lossless")
    assert torch.equal(run(pipe, name), plain)


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_adds_no_host_sync(name: str) -> None:
    """Every denoiser call runs with synchronising operations forbidden, as many as the plain model allows."""
    pipe = on_gpu(name, torch.bfloat16)
    _forbid_syncs(pipe)
    try:
        run(pipe, name)
    except RuntimeError:
        pytest.skip("the plain denoiser synchronises by itself")
    accelerate_pipeline(pipe, EVERY_2, strict=True)
    run(pipe, name)


def _forbid_syncs(pipe) -> None:
    denoiser = find_denoisers(pipe)[0][1]
    denoiser.register_forward_pre_hook(lambda *_: torch.cuda.set_sync_debug_mode("error"))
    denoiser.register_forward_hook(lambda *_: torch.cuda.set_sync_debug_mode("default"), always_call=True)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_rows_agree_with_eager(name: str) -> None:
    pipe = on_gpu(name, torch.float32)
    accelerate_pipeline(pipe, EVERY_2)
    eager = run(pipe, name)
    accelerate_pipeline(pipe, [EVERY_2, CompileConfig()])
    compiled = run(pipe, name)
    assert float((compiled - eager).norm() / eager.norm()) < 1e-2
    assert len(session_of(pipe).runtimes[0].runner.rows) == 2


def test_model_offload_is_survived() -> None:
    pipe = tiny_pipeline("flux")
    plain = run(on_gpu("flux", torch.float32), "flux")
    pipe.enable_model_cpu_offload()
    pipe.set_progress_bar_config(disable=True)
    accelerate_pipeline(pipe, "lossless", strict=True)
    assert torch.equal(run(pipe, "flux"), plain)
    assert torch.equal(run(pipe, "flux"), plain)


def test_the_meter_waits_for_the_device() -> None:
    pipe = on_gpu("pixart", torch.float32)
    with DenoiserMeter(pipe.transformer) as meter:
        run(pipe, "pixart")
    assert meter.calls == 6 and meter.seconds > 0
