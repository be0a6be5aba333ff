"""The heat map: what a plan does at every step, from its file alone and with what the model adds."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from dit_accel import GeneratorSpec, Schedule, StaticCacheConfig, TrajectoryConfig
from dit_accel.app.heat_rows import (
    ANSWERED,
    COMPUTED,
    FORECAST,
    REUSED,
    SPARSE,
    HeatRow,
    Known,
    grouped,
    rows_of_passes,
    tensor_shapes,
)
from dit_accel.app.heatmap import heatmap
from dit_accel.app.layouts import passes_of, targets_of
from dit_accel.app.plans import read_plan_file, shipped_folder
from dit_accel.passes.attention.sparse_d import SparseDConfig
from dit_accel.plan.plan import TENSOR_FILE, AccelerationPlan

FLUX = shipped_folder() / "emoji-flux" / "fast"


def test_a_trajectory_of_its_file_alone() -> None:
    rows, said = rows_of_passes(read_plan_file(FLUX).passes)
    assert len(rows) == 1 and said == ()
    assert rows[0].cells.count(COMPUTED) == 9 and rows[0].cells.count(ANSWERED) == 19


def test_a_schedule_of_its_own_and_under_a_trajectory() -> None:
    schedule = {"type": "static_cache", "schedule": {"num_steps": 4, "recompute": {"blocks.0.ff": "1011"}}}
    rows, _ = rows_of_passes([schedule])
    assert rows[0].name == "blocks.0.ff" and rows[0].cells == (COMPUTED, REUSED, COMPUTED, COMPUTED)
    # What was to be recomputed at the answered step waits for the next one that is computed.
    rows, _ = rows_of_passes([{"type": "trajectory", "computed": "1001"}, schedule])
    assert rows[1].cells == (COMPUTED, ANSWERED, ANSWERED, COMPUTED)
    late = {"type": "static_cache", "schedule": {"num_steps": 4, "recompute": {"blocks.0.ff": "1010"}}}
    rows, _ = rows_of_passes([{"type": "trajectory", "computed": "1101"}, late])
    assert rows[1].cells == (COMPUTED, REUSED, ANSWERED, COMPUTED)


def test_what_decides_while_it_runs_is_said() -> None:
    rows, said = rows_of_passes([{"type": "teacache", "threshold": 0.1}, {"type": "compile"}])
    assert rows == () and "'teacache' decides" in said[0] and "'compile' does not decide" in said[1]
    assert "teacache" in heatmap(rows, said)


def test_branches_with_weights_of_their_own_have_rows_of_their_own(tmp_path: Path) -> None:
    computed = (True, False, False, True)
    table = torch.zeros(4, 6, dtype=torch.float64)
    table[1:, 0] = 1.0
    cross = torch.zeros(4, 10, dtype=torch.float64)
    cross[1, 0] = 1.0
    config = TrajectoryConfig(
        computed=computed, weights=table, unconditional=table.clone(), cross=cross,
        conditional=(False, True, False, False),
    )  # fmt: skip
    AccelerationPlan(passes=(config,)).save_pretrained(tmp_path)
    shapes = tensor_shapes(tmp_path / TENSOR_FILE)
    assert shapes["trajectory/unconditional"] == (4, 6)
    rows, said = rows_of_passes(read_plan_file(tmp_path).passes, Known(num_steps=4, shapes=shapes))
    cells = {row.name: row.cells for row in rows}
    assert cells["whole denoiser, conditional branch"] == (COMPUTED, COMPUTED, ANSWERED, COMPUTED)
    assert cells["whole denoiser, unconditional branch"] == (COMPUTED, ANSWERED, ANSWERED, COMPUTED)
    assert any("weights of their own" in each for each in said)


def test_forecasts_are_told_from_reuse_by_the_tensors(tmp_path: Path) -> None:
    schedule = Schedule(3, {"blocks.0.ff": "101", "blocks.1.ff": "101"})
    corrections = {
        "blocks.0.ff.scale": torch.ones(3, 2, 1),
        "blocks.0.ff.shift": torch.zeros(3, 1),
        "blocks.0.ff.nodes": torch.tensor([[-1, -1], [0, -1], [-1, -1]]),
        "blocks.1.ff.scale": torch.ones(3, 1),
        "blocks.1.ff.shift": torch.zeros(3, 1),
    }
    plan = AccelerationPlan(passes=(StaticCacheConfig(schedule=schedule, corrections=corrections),))
    plan.save_pretrained(tmp_path)
    passes, known = passes_of(tmp_path, None, (), 3)
    rows, _ = rows_of_passes(passes, known)
    assert [row.cells[1] for row in rows] == [FORECAST, REUSED]


@pytest.mark.parametrize("model", ["emoji-pixart", "emoji-sd", "emoji-flux", "emoji-wan"])
def test_a_preset_by_rule_has_the_rows_that_it_has_in_a_run(model: str) -> None:
    targets = targets_of(model)
    assert all(parameter.is_meta for parameter in targets[0].denoiser.parameters()), "no weights are loaded for a map"
    rows, said = rows_of_passes(*passes_of(None, "balanced", targets, 6))
    config = StaticCacheConfig(schedule=GeneratorSpec("full_steps", n=2))
    schedule = config.schedule_for(targets[0].layout.graph, 6)
    wanted = {tuple(COMPUTED if bit else REUSED for bit in bits) for bits in schedule.recompute.values()}
    assert {row.cells for row in rows} == wanted and len(rows) < len(schedule.recompute)
    assert any("full_steps" in each for each in said)


def test_density_of_attention_by_layer_and_step(tmp_path: Path) -> None:
    config = SparseDConfig(density=0.3, dense_layers=1, dense_steps_frac=0.5)
    AccelerationPlan(passes=(TrajectoryConfig(speedup=2.0), config)).save_pretrained(tmp_path)
    passes, known = passes_of(tmp_path, None, targets_of("emoji-wan"), 8)
    rows, _ = rows_of_passes(passes, known)
    first, others = rows[1], rows[2]
    assert first.name == "blocks.0.attn1, attention" and others.name == "blocks.1-5.attn1, attention"
    assert first.shares == (1.0,) * 8 and others.shares == (1.0,) * 4 + (0.3,) * 4
    states = [(whole, cell) for whole, cell in zip(rows[0].cells, others.cells, strict=True)]
    assert all((cell == ANSWERED) == (whole == ANSWERED) for whole, cell in states)
    assert SPARSE in others.cells and SPARSE not in first.cells
    assert "30%" in heatmap(rows)


def test_density_that_was_calibrated(tmp_path: Path) -> None:
    from dit_accel.passes.attention.bits import pack
    from dit_accel.passes.attention.paro_config import PAROAttentionConfig

    masks = torch.ones(2, 1, 2, 2, 2, dtype=torch.bool)
    masks[1, :, :, 1, 0] = False  # in the second half of a run one block of four is left out
    config = PAROAttentionConfig(
        grid=(1, 8, 16), layers=("blocks.2.attn1",), orders=torch.zeros(1, 2, dtype=torch.uint8),
        masks=pack(masks.flatten(3)),
    )  # fmt: skip
    AccelerationPlan(passes=(config,)).save_pretrained(tmp_path)
    rows, _ = rows_of_passes(*passes_of(tmp_path, None, targets_of("emoji-wan"), 4))
    shares = {row.name: row.shares for row in rows}
    assert shares["blocks.2.attn1, attention"] == (1.0, 1.0, 0.75, 0.75)
    assert shares["blocks.{0-1,3-5}.attn1, attention"] == (1.0,) * 4


def test_rows_that_differ_by_a_number_stand_as_one() -> None:
    names = [f"up.{i}.blocks.{k}.ff" for i in (0, 1, 3) for k in (0, 1)]
    rows = [HeatRow(name=name, cells=(COMPUTED, REUSED)) for name in names]
    other = HeatRow(name="up.2.blocks.0.ff", cells=(COMPUTED, COMPUTED))
    assert [row.name for row in grouped([*rows, other])] == ["up.{0-1,3}.blocks.0-1.ff", other.name]


def test_every_cell_says_what_it_is() -> None:
    rows = (
        HeatRow(name="<b>", cells=(COMPUTED, FORECAST, REUSED, ANSWERED)),
        HeatRow(name="x", cells=(SPARSE,) * 4, shares=(0.5,) * 4),
    )
    html = heatmap(rows)
    svg = ElementTree.fromstring(re.search(r"<svg class=\"heat.*?</svg>", html, re.DOTALL).group())  # type: ignore[union-attr]
    titles = [each.text for each in svg.iter("title")]
    assert len(titles) == 8 and titles[1] == "<b>, step 2: forecast from kept outputs"
    assert "<b>" not in html


def test_a_header_that_is_none_gives_no_shapes(tmp_path: Path) -> None:
    path = tmp_path / TENSOR_FILE
    for content in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]"):
        path.write_bytes(content)
        assert tensor_shapes(path) == {}
    assert tensor_shapes(tmp_path / "nowhere") == {}
