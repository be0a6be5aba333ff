"""Calls to prove facts on: small ones that a family makes, and those that a pipeline makes."""

import pytest
import torch
from tiny import DISCOVERED_NAMES, TEXT_TOKENS, TINY_NAMES, tiny_call, tiny_model, tiny_pipeline
from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families import resolve_family
from dit_accel.families.grid import token_grid
from dit_accel.families.live_call import live_call
from dit_accel.families.small_call import small_call


@pytest.mark.parametrize("name", [name for name in TINY_NAMES if name not in DISCOVERED_NAMES])
def test_a_small_call_runs_and_tells_rows_from_columns(name: str) -> None:
    model = tiny_model(name)
    family = resolve_family(model)
    grid = token_grid(family, model, small_call(model, family))
    assert grid is not None
    assert grid.size[1:] == ((8, 8) if name == "dit" else (8, 12))
    reference = name == "wan_animate"  # a frame more than is made
    assert grid.frames == (1 if family.default_frames == 1 else 2) + reference


@pytest.mark.parametrize("name", ["pixart", "flux", "wan22", "sd", "z_image"])
def test_a_live_call_is_that_of_the_pipeline(name: str) -> None:
    pipe = tiny_pipeline(name)
    denoisers = [getattr(pipe, part) for part in ("unet", "transformer", "transformer_2") if hasattr(pipe, part)]
    for denoiser in (module for module in denoisers if module is not None):
        call = live_call(denoiser, lambda: pipe(**tiny_call(name)))
        assert next(iter(call)) in ("hidden_states", "sample", "x")
        assert not denoiser._forward_pre_hooks
        with torch.no_grad():
            assert torch.isfinite(torch.as_tensor(denoiser(**{**call, "return_dict": False})[0][0])).all()
    text = call.get("encoder_hidden_states", call.get("cap_feats"))
    assert text[0].shape[0] == TEXT_TOKENS


def test_a_pipeline_that_does_not_call_it_is_an_error() -> None:
    with pytest.raises(UnsupportedModelError, match="without calling Linear"):
        live_call(nn.Linear(2, 2), lambda: None)
