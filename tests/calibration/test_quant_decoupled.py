"""Bits by what a layer is for."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dit_accel.calibration.quant_allocate import Option
from dit_accel.calibration.quant_decoupled import decoupled, group_of
from dit_accel.calibration.quant_gram import Gram
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.scheme import PLAIN


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("transformer.transformer_blocks.0.attn1.to_q", "quality"),
        ("transformer.transformer_blocks.0.attn2.to_k", "content"),
        ("transformer.transformer_blocks.0.ff.net.0.proj", "content"),
        ("transformer.blocks.3.ffn.net.2", "content"),
        ("transformer.single_transformer_blocks.0.proj_mlp", "content"),
        ("transformer.transformer_blocks.0.attn.add_k_proj", "content"),
        ("transformer.transformer_blocks.0.attn.to_out.0", "quality"),
        ("unet.down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q", "motion"),
    ],
)
def test_what_layers_are_for(name: str, group: str) -> None:
    assert group_of(name) == group


def searching(distances: dict[str, float]) -> Any:
    """Four layers of a weight each; pictures are as good as the layers at 8 bits say."""
    names = ["m.0.attn1.q", "m.1.attn1.q", "m.0.ff.net", "m.1.ff.net"]
    options = [
        Option(layer=name, scheme=scheme, nbytes=size)
        for name in names
        for scheme, size in (("w4a8", 1), ("w8a8", 2), (PLAIN, 4))
    ]
    places = tuple((o.layer, o.scheme) for o in options if o.scheme != PLAIN)
    errors = torch.tensor([1.0 if scheme == "w4a8" else 0.1 for _, scheme in places], dtype=torch.float64)
    asked: list[dict[str, str]] = []

    def judge(chosen: dict[str, str]) -> dict[str, float]:
        asked.append(chosen)
        return {"psnr_db": -sum(distances[name] for name, width in chosen.items() if width == "w4a8")}

    gram = Gram(places=places, products=torch.diag(errors))
    return SimpleNamespace(
        options=lambda: options, gram=gram, judge=judge, bytes_before=16.0, bytes_apart=0.0, asked=asked
    )


def test_the_split_whose_pictures_are_best_is_taken() -> None:
    search = searching({"m.0.attn1.q": 5.0, "m.1.attn1.q": 5.0, "m.0.ff.net": 1.0, "m.1.ff.net": 1.0})
    scores = {place: (0.2 if place[1] == "w4a8" else 0.01) for place in search.gram.places if "ff" in place[0]}
    found = decoupled(search, 6 / 16, scores)
    assert found == {"m.0.attn1.q": "w8a8", "m.1.attn1.q": "w8a8", "m.0.ff.net": "w4a8", "m.1.ff.net": "w4a8"}
    assert len(search.asked) == len({tuple(sorted(each.items())) for each in search.asked}) > 1


def test_the_layer_that_changes_pictures_most_gets_the_bits_of_its_group() -> None:
    search = searching(dict.fromkeys(("m.0.attn1.q", "m.1.attn1.q", "m.0.ff.net", "m.1.ff.net"), 1.0))
    scores = {
        place: (0.9 if place == ("m.1.ff.net", "w4a8") else 0.1) for place in search.gram.places if "ff" in place[0]
    }
    found = decoupled(search, 7 / 16, scores, ratios=(0.75,))
    assert found["m.1.ff.net"] == "w8a8" and found["m.0.ff.net"] == "w4a8"


def test_a_budget_that_no_split_keeps() -> None:
    search = searching(dict.fromkeys(("m.0.attn1.q", "m.1.attn1.q", "m.0.ff.net", "m.1.ff.net"), 1.0))
    scores = dict.fromkeys((place for place in search.gram.places if "ff" in place[0]), 0.1)
    with pytest.raises(ConfigError, match="no split"):
        decoupled(search, 2 / 16, scores)
