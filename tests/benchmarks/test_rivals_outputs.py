"""The rivals that leave out whole denoiser calls: their rules on cases with a known answer, and what they compute."""

import pytest
import torch
from rivals.base import Setting, Task
from rivals.kept_outputs import record
from rivals.l2p import L2P, inner_products, mixtures
from tiny_pipelines import tiny_call, tiny_pipeline
from torch import nn

from dit_accel.families.pipeline import find_denoisers

PIPELINES = ("pixart", "sd", "flux", "wan")
STEPS = 8
BRANCHES = {"pixart": 1, "sd": 1, "flux": 1, "wan": 2}


def _task(pipe: object, name: str) -> Task:
    return Task(
        num_inference_steps=STEPS,
        calibrate=lambda: pipe(**tiny_call(name, num_inference_steps=STEPS)),  # type: ignore[operator]
    )


def _calls(pipe: object, name: str) -> int:
    """How often the denoiser's first layer with weights really runs in one run."""
    denoiser: nn.Module = find_denoisers(pipe)[0][1]
    first = next(module for module in denoiser.modules() if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear))
    seen: list[int] = []
    handle = first.register_forward_hook(lambda *_: seen.append(1))
    try:
        pipe(**tiny_call(name, num_inference_steps=STEPS))  # type: ignore[operator]
    finally:
        handle.remove()
    return len(seen)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_recording_has_every_call_and_step(name: str) -> None:
    pipe, heard = tiny_pipeline(name), []
    record(pipe, lambda: [_task(pipe, name).calibrate() for _ in range(2)], heard.append)
    assert [len(each.outputs) for each in heard] == [STEPS, STEPS]
    assert [len(each.latents) for each in heard] == [STEPS, STEPS]
    assert [[len(outputs) for outputs in each.calls.values()] for each in heard] == [[STEPS] * BRANCHES[name]] * 2


@pytest.mark.parametrize("name", PIPELINES)
def test_l2p_computes_every_nth_step(name: str) -> None:
    pipe = tiny_pipeline(name)
    setting = Setting(name="", rival="", params={"interval": 3})
    with L2P().applied(pipe, setting, _task(pipe, name)):
        assert _calls(pipe, name) == 3 * BRANCHES[name]


def test_l2p_reproduces_a_linear_trajectory() -> None:
    """Outputs that move along a line are mixtures of any two of them; with one known, it can only be repeated."""
    torch.manual_seed(0)
    base, slope = torch.randn(2, 500, dtype=torch.float64)
    outputs = torch.stack([base + step * slope for step in range(9)])
    weights = mixtures((outputs @ outputs.T).tolist(), 2, ridge=1e-12)
    assert [row is None for row in weights] == [True, False] * 4 + [True]
    for step in (3, 5, 7):
        row = weights[step]
        assert row is not None
        mixed = torch.tensor(row, dtype=torch.float64) @ outputs[0:step:2]
        assert torch.allclose(mixed, outputs[step], atol=1e-4)


def test_l2p_starts_from_the_last_output() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(6, 50, dtype=torch.float64)
    weights = mixtures((outputs @ outputs.T).tolist(), 3, ridge=1e9)
    assert weights[4] == pytest.approx([0, 1], abs=1e-6)


def test_l2p_learns_over_branches_and_runs() -> None:
    pipe = tiny_pipeline("wan")
    task = _task(pipe, "wan")
    heard: list = []
    record(pipe, task.calibrate, heard.append)
    first, second = heard[0].calls[0][2], heard[0].calls[1][2]
    assert inner_products(pipe, task)[2][2] == pytest.approx(float(first.square().sum() + second.square().sum()))
