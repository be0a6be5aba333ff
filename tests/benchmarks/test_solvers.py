"""The measurement of published techniques: what it runs, what it counts, and the table of it."""

from typing import Any

import pytest
from pages.techniques import CLAIMS, techniques_block
from solver_cases import CASES, Case
from solvers import macs_of
from tiny import tiny_call, tiny_pipeline
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dit_accel import EncoderPropagationConfig, accelerate_pipeline
from dit_accel.errors import ConfigError
from dit_accel.evaluation.compare.cost import DenoiserMeter, call_macs
from dit_accel.session.presets import PRESETS
from dit_accel.session.session import session_of


def test_every_technique_has_a_claim_and_every_preset_is_measured() -> None:
    cases = [case for each in CASES.values() for case in each]
    assert {case.technique for case in cases} == set(CLAIMS)
    measured = {case.plan for case in cases if isinstance(case.plan, str)}
    assert measured == {name for name in PRESETS if PRESETS.get(name).paper}
    for each in CASES.values():
        assert len({case.name for case in each}) == len(each)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_arithmetic_is_that_of_the_run(name: str, width: int) -> None:
    """Counted by torch while the pipeline really runs, but for the timestep's embedding of answered steps."""
    pipe = tiny_pipeline(name)
    denoiser = pipe.unet if name == "sd" else pipe.transformer
    accelerate_pipeline(pipe, EncoderPropagationConfig(every=3, max_parallel=width))
    counted = [0]
    counters: list[FlopCounterMode] = []

    def begin(*_: Any) -> None:
        counters.append(FlopCounterMode(display=False).__enter__())

    def end(*_: Any) -> None:
        counters[-1].__exit__(None, None, None)
        counted[0] += counters[-1].get_total_flops() // 2

    handles = [denoiser.register_forward_pre_hook(begin), denoiser.register_forward_hook(end)]
    with sdpa_kernel(SDPBackend.MATH), DenoiserMeter(denoiser) as meter:
        pipe(**tiny_call(name, num_inference_steps=6))
    for handle in handles:
        handle.remove()
    session = session_of(pipe)
    assert session is not None and meter.inputs is not None
    total = macs_of(session.runtimes[0], call_macs(denoiser, meter.inputs))
    assert total == pytest.approx(counted[0], rel=0.02)


def report(**fields: Any) -> dict[str, Any]:
    case = {
        "technique": "deepcache",
        "steps": 50,
        "calls": 50,
        "answered": 0,
        "macs_saved_frac": 0.5,
        "psnr_db": 30.04,
        "worst_db": 20.0,
        "st_lpips": 0.0123,
        "speedup": None,
        **fields,
    }
    environment = {"cpu": "a CPU", "packages": {"torch": "2", "diffusers": "3"}}
    cases = {"deepcache: N = 3": case, "deepcache: N = 5": {**case, "answered": 10}}
    model = {"environment": environment, "created_utc": "2030-01-01T00", "num": 16, "steps": 50, "cases": cases}
    return {"models": {"emoji-sd": model}}


def test_the_table_says_what_was_not_measured() -> None:
    block = techniques_block(report())
    first, second = [line for line in block.splitlines() if line.startswith("| DeepCache")]
    assert (
        CLAIMS["deepcache"].claim in first and "| not measured yet | 50% | 0 of 50 | 30.0 (20.0) dB | 0.012 |" in first
    )
    assert CLAIMS["deepcache"].claim not in second and "10 of 50" in second
    assert "wall-clock: not measured yet" in block and "n = 16" in block
    timing = {"images": 1, "repeats": 5, "plain_s": 1.0}
    timed = techniques_block(report(speedup=1.504, timing=timing))
    assert "| 1.50x |" in timed and "5 interleaved runs of 1 image(s)" in timed


def test_another_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not a report of benchmarks/solvers\.py: 'models' is missing"):
        techniques_block({})
    with pytest.raises(ConfigError, match="'unheard_of' is missing"):
        techniques_block(report(technique="unheard_of"))


def test_a_case_is_named_by_technique_and_setting() -> None:
    assert Case(technique="fora", setting="N = 3", plan="fora").name == "fora: N = 3"
