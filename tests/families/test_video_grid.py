"""The token grid of a live call of a video model: what the call's own tensors say."""

from typing import Any

import pytest
import torch
from tiny import TEXT_TOKENS, tiny_inputs, tiny_model
from tiny_configs import TINY
from tiny_models import TINY_NAMES  # noqa: F401 (it adds the video models to TINY)
from tiny_video_configs import VIDEO_TINY

from dit_accel.families import resolve_family
from dit_accel.families.grid import TokenGrid, token_grid

NAMES = (*VIDEO_TINY, "mochi")
ONE_FRAME_MORE = ("wan_animate",)  # the reference picture
# What the joint sequence has of text, in tokens; Hunyuan's also of letters and of the image.
TEXT = {"mochi": TEXT_TOKENS, "hunyuan_video15": TEXT_TOKENS + 256 + 729}


@pytest.mark.parametrize("name", NAMES)
def test_a_call_tells_its_grid(name: str) -> None:
    model, tiny = tiny_model(name), TINY[name]
    family = resolve_family(model)
    frames, rows, columns = family.grid(model, height_px=tiny.px, width_px=tiny.px, num_frames=tiny.frames)
    frames += name in ONE_FRAME_MORE
    tokens = frames * rows * columns
    text = (tokens, tokens + TEXT[name]) if name in TEXT else None
    expected = TokenGrid(frames=frames, rows=rows, columns=columns, text=text)
    assert token_grid(family, model, tiny_inputs(name, model)) == expected


def test_tokens_that_follow_the_video_hide_the_grid() -> None:
    model = tiny_model("ltx2")
    inputs: dict[str, Any] = tiny_inputs("ltx2", model)
    inputs["hidden_states"] = torch.cat([inputs["hidden_states"], inputs["hidden_states"][:, :1]], dim=1)
    assert token_grid(resolve_family(model), model, inputs) is None
