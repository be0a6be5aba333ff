"""The tiny models and pipelines run, repeat themselves, and depend on every parameter."""

import pytest
import torch
from tiny import TINY_NAMES, TINY_PIPELINE_NAMES, tiny_call, tiny_inputs, tiny_model, tiny_pipeline


def _flat(output: object) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output.flatten().float()
    assert isinstance(output, list | tuple)
    return torch.cat([_flat(item) for item in output])


@pytest.mark.parametrize("name", TINY_NAMES)
def test_model_runs_and_repeats(name: str) -> None:
    model = tiny_model(name)
    with torch.no_grad():
        first = _flat(model(**tiny_inputs(name, model, seed=1)))
        again = _flat(tiny_model(name)(**tiny_inputs(name, model, seed=1)))
        other = _flat(model(**tiny_inputs(name, model, seed=2)))
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("name", TINY_PIPELINE_NAMES)
def test_pipeline_runs_and_repeats(name: str) -> None:
    first = tiny_pipeline(name)(**tiny_call(name))[0]
    again = tiny_pipeline(name)(**tiny_call(name))[0]
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)
