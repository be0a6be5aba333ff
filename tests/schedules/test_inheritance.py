"""A-SDM's inheritance: which parts of a UNet, at which steps; and what is refused."""

from typing import Any

import pytest
from test_generators import build, graph_of

from dit_accel.schedules import GeneratorSpec, ScheduleError

DEEP = {"down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1"}


def test_blocks() -> None:
    made = build("inheritance", 6, "sd", n=3)
    assert set(made) == DEEP and set(made.values()) == {"100100"}


def test_layers_leave_out_what_stands_between_them() -> None:
    made = build("inheritance", 6, "sd", level="layer", n=2)
    assert "mid_block" in made and not any("samplers" in site or site in DEEP - {"mid_block"} for site in made)
    assert {"down_blocks.1.resnets.0", "down_blocks.1.attentions.0", "up_blocks.1.resnets.2"} <= set(made)
    assert not any(site.startswith(("down_blocks.0", "up_blocks.2", "conv_in")) for site in made)


def test_units_are_what_is_inside_of_layers() -> None:
    made = build("inheritance", 6, "sd", level="unit", n=2)
    kinds = {graph_of("sd").sites[graph_of("sd").index[site]].kind for site in made}
    assert kinds == {"resnet", "self_attn", "cross_attn", "ff"}
    assert any(site.startswith("mid_block.") for site in made)
    assert not any(site.startswith(("down_blocks.0", "up_blocks.2")) for site in made)


def test_the_outermost_blocks_may_inherit_too() -> None:
    assert set(build("inheritance", 4, "sd", outermost=0)) == DEEP | {"down_blocks.0", "up_blocks.2"}
    assert set(build("inheritance", 4, "sd", outermost=2)) == {"down_blocks.2", "mid_block", "up_blocks.0"}


@pytest.mark.parametrize(
    ("params", "row"),
    [
        ({"mode": "uniform", "n": 3}, "1001001001"),
        ({"mode": "early", "n": 2, "power": 2.0}, "1110101000"),
        ({"mode": "late", "n": 2, "power": 2.0}, "1000101011"),
        ({"steps": [4, 5]}, "1000110000"),
        ({"steps": [0, 9]}, "1000000001"),
    ],
    ids=str,
)
def test_modes(params: dict[str, Any], row: str) -> None:
    assert set(build("inheritance", 10, "sd", **params).values()) == {row}


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        ("sd", {"level": "model"}, "'level' must be one of block, layer, unit, got 'model'"),
        ("sd", {"mode": "random"}, "'mode' must be one of uniform"),
        ("sd", {"n": 0}, "'n' must be at least 1"),
        ("sd", {"steps": [12]}, "step 12 cannot be active in a run of 4 steps"),
        ("pixart", {}, "'inheritance' is for UNets"),
    ],
    ids=str,
)
def test_refused(model: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ScheduleError, match=message.replace("[", r"\[")):
        GeneratorSpec("inheritance", params).build(graph_of(model), 4)
