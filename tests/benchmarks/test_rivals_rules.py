"""The rules that we wrote after papers, and the counting, on cases that can be checked by hand."""

import pytest
import torch
from rivals.base import Setting, Task
from rivals.measure import fewer_steps
from rivals.smoothcache import error_curves
from rivals.teacache import TeaCache
from rivals.tgate import TGate
from rivals.work import Tally, WorkCounter, action
from tiny_pipelines import tiny_call, tiny_pipeline
from torch import nn

STEPS = 6


def test_error_curves_have_a_row_a_step_and_leave_nothing() -> None:
    pipe = tiny_pipeline("wan")
    before = sorted(vars(pipe.transformer))
    curves = error_curves(pipe, lambda: pipe(**tiny_call("wan", num_inference_steps=STEPS)))
    assert set(curves) == {"self_attn", "cross_attn", "ff"}
    assert [len(row) for row in curves["ff"]] == [3, 3, 3, 2, 1, 0]
    assert sorted(vars(pipe.transformer)) == before


def test_teacache_fits_what_it_saw() -> None:
    pipe = tiny_pipeline("pixart")
    task = Task(num_inference_steps=STEPS, calibrate=lambda: pipe(**tiny_call("pixart", num_inference_steps=20)))
    TeaCache().prepare(pipe, task)
    assert len(task.memory["TeaCache"]["coefficients"]) == 5
    assert task.memory["TeaCache"]["r2"] <= 1


@pytest.mark.parametrize("name", ["pixart", "sd", "wan"])
def test_tgate_with_its_gate_at_the_end_is_plain(name: str) -> None:
    pipe = tiny_pipeline(name)
    call = lambda: pipe(**tiny_call(name, num_inference_steps=STEPS))[0]  # noqa: E731
    plain = call()
    params = {"gate": STEPS, "sp_interval": 1, "warmup": 2}
    with TGate().applied(
        pipe, Setting(name="", rival="", params=params), Task(num_inference_steps=STEPS, calibrate=call)
    ):
        assert torch.equal(call(), plain)


@pytest.mark.parametrize("name", ["pixart", "sd"])
def test_tgate_runs_half_the_batch_after_the_gate(name: str) -> None:
    pipe = tiny_pipeline(name)
    denoiser = pipe.unet if name == "sd" else pipe.transformer
    sizes: list[int] = []
    last = denoiser.conv_out if name == "sd" else denoiser.proj_out
    last.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    params = {"gate": 4, "sp_interval": 1, "warmup": 2}
    task = Task(num_inference_steps=STEPS, calibrate=lambda: None)
    with TGate().applied(pipe, Setting(name="", rival="", params=params), task):
        pipe(**tiny_call(name, num_inference_steps=STEPS))
    assert sizes == [2, 2, 2, 2, 1, 1]


def test_work_is_counted_below_any_patch() -> None:
    model = tiny_pipeline("pixart").transformer
    inner = model.transformer_blocks[0].ff.net[2]
    inputs = {
        "hidden_states": torch.zeros(1, 4, 8, 8),
        "encoder_hidden_states": torch.zeros(1, 6, 12),
        "timestep": torch.tensor([5]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    with torch.no_grad():
        with WorkCounter([model]) as plain:
            model(**inputs)
        kept = inner(torch.zeros(1, 16, inner.in_features))
        inner.forward = lambda *args: kept  # hooks still fire, but nothing is computed
        with WorkCounter([model]) as own:
            model(**inputs)
    done = action(plain.tally, own.tally, [model])
    assert done.hits == 1
    assert done.plain_macs - done.macs == 16 * inner.in_features * inner.out_features
    assert done.saved_by_kind["ff"] == pytest.approx(1 / 6, abs=1e-4)


def test_attention_products_count() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(query=x, key=x, value=x)

    x = torch.zeros(2, 3, 5, 7)
    with WorkCounter([model := Attention()]) as work:
        model(x)
        nn.functional.scaled_dot_product_attention(x, x, x)  # outside of the denoiser
    assert work.tally == Tally({}, 2 * 3 * 5 * 5 * 2 * 7)


def test_fewer_steps_are_from_five_to_one_less() -> None:
    assert fewer_steps(8) == [5, 6, 7]
    assert fewer_steps(20)[-1] == 18
    assert fewer_steps(4) == []
    assert fewer_steps(50)[-1] == 48
