"""The attention benchmarks write what they have, and go on where they were: nothing is measured twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attention
import attention_gpu
import attention_quality
import pytest
import torch
from attention_checks import check, check_chosen
from attention_clock import attempt
from attention_variants import Variant

from dit_accel.calibration.attention_record import AttentionRecord
from dit_accel.kernels.block_sparse import attend
from dit_accel.kernels.gather_attention import gather_attention
from dit_accel.kernels.gather_pairs import KeyBlocks
from dit_accel.kernels.gather_select import choose_best, gates
from dit_accel.kernels.ordered_attention import ordered_attention
from dit_accel.passes.attention.layout import TokenLayout


@pytest.fixture(autouse=True)
def gradients_as_they_were() -> Iterator[None]:
    """The programs switch them off, which is for the whole process."""
    before = torch.is_grad_enabled()
    yield
    torch.set_grad_enabled(before)


def test_a_kernel_that_is_wrong_anywhere_is_not_timed() -> None:
    """In its first, its middle and its last rows; before its time is taken."""
    q, k, v = (torch.randn(1, 200, 2, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
    table = attention.random_table(200, 0.5, 2, 16, seed=0)
    found = attend(q, k, v, table, lse=False)
    order = torch.stack([torch.randperm(200, generator=torch.Generator().manual_seed(n)) for n in range(2)]).int()
    assert check(found, q, k, v, table) < 1e-5
    assert check(ordered_attention(q, k, v, table, order), q, k, v, table, order=order) < 1e-5
    blocks = KeyBlocks.of(torch.arange(200) // 50)
    chosen = choose_best(gates(q, k, blocks), blocks.own, 2, "query")
    assert check_chosen(gather_attention(q, k, v, chosen, blocks, lse=False), q, k, v, chosen, blocks) < 1e-5
    for odd in (0, 100, 199):
        wrong = found.clone()
        wrong[0, odd, 1] = torch.nan
        with pytest.raises(SystemExit, match="is off by"):
            attempt(lambda wrong=wrong: wrong, check=lambda found: check(found, q, k, v, table))


def loaded(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_times_are_added_to_those_that_are_there(monkeypatch: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, list[float]]] = []

    def measure(length: int, densities: list[float], **settings: int) -> list[dict[str, Any]]:
        seen.append((length, densities))
        numbers = {"dense_ms": 2.0, "sparse_ms": 1.0, "speedup": 2.0, "speedup_min": 2.0, "speedup_max": 2.0}
        return [{"length": length, "density": density, **numbers} for density in densities]

    monkeypatch.setattr(attention, "measure", measure)
    path = tmp_path / "times.json"

    def run(lengths: list[int], densities: list[float], repeats: int = 3) -> None:
        attention.main(path, lengths, densities, repeats, heads=1, dim=16, block=16)

    run([64], [0.5])
    run([32, 64], [0.1, 0.5])
    assert seen == [(64, [0.5]), (32, [0.1, 0.5]), (64, [0.1])]
    assert [(row["length"], row["density"]) for row in loaded(path)["rows"]] == [
        (32, 0.5),
        (32, 0.1),
        (64, 0.5),
        (64, 0.1),
    ]
    with pytest.raises(SystemExit, match="measured otherwise"):
        run([64], [0.5], repeats=9)


def test_a_gpu_goes_on_with_the_next_shape(monkeypatch: Any, tmp_path: Path) -> None:
    made: list[str] = []

    def row(what: str) -> Any:
        def make(*key: Any, **more: Any) -> dict[str, Any]:
            if len(made) == 2:
                made.append("stopped")
                raise KeyboardInterrupt
            made.append(what)
            return {"name": key[0], "length": key[0], "head_dim": key[1], "block": key[2] if len(key) > 2 else None}

        return make

    for what in ("block_sparse", "sla", "vmoba", "whole_calls"):
        monkeypatch.setattr(attention_gpu, what, row(what))
    path = tmp_path / "gpu.json"
    with pytest.raises(KeyboardInterrupt):
        attention_gpu.main(rehearse=True, output=path)
    assert set(loaded(path)) >= {"block_sparse", "sla"} and "whole_calls" not in loaded(path)
    attention_gpu.main(rehearse=True, output=path)
    assert made == ["block_sparse", "sla", "stopped", "vmoba", *["whole_calls"] * len(attention_gpu.TINY)]
    attention_gpu.main(rehearse=True, output=path)
    assert len(made) == 4 + len(attention_gpu.TINY)
    found = loaded(path)
    found["environment"]["gpu"] = "another"
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(SystemExit, match="is of \\('another'"):
        attention_gpu.main(rehearse=True, output=path)


def test_videos_are_added_to_those_that_are_there(monkeypatch: Any, tmp_path: Path) -> None:
    layout = TokenLayout((2, 4, 4))
    record = AttentionRecord(layout=layout, layers=("a",), block=16, sums=torch.ones(1, 1, 6, 1, 2, 2) / 4)
    measured: list[tuple[int, int]] = []

    def found(pipe: Any, asked: Any, number: int, settings: Any, passes: list[Any]) -> dict[str, float]:
        measured.append((len(passes), number))
        return {"psnr_db": 30.0 + number, "motion_right": 1.0, "flicker_ratio": 1.0, "not_computed_frac": 0.5}

    ways = [
        Variant(technique="one", order="raster", make=lambda density: SimpleNamespace(density=density)),
        Variant(technique="one", order="raster", make=lambda density: SimpleNamespace(density=density), cached=True),
    ]
    monkeypatch.setattr(
        attention_quality, "load_embedded", lambda name: SimpleNamespace(set_progress_bar_config=lambda **off: None)
    )
    monkeypatch.setattr(attention_quality, "record_attention", lambda *args, **settings: record)
    monkeypatch.setattr(attention_quality, "generate", lambda pipe, prompts, *rest: torch.rand(1, 8, 3, 32, 32))
    monkeypatch.setattr(attention_quality, "variants", lambda *args: ways)
    monkeypatch.setattr(attention_quality, "_measured", found)
    monkeypatch.setattr(attention_quality, "_moves", lambda video, asked: 1.0)
    path = tmp_path / "quality.json"

    def run(num: int, densities: list[float], only: list[str] | None = None) -> None:
        attention_quality.main(
            "emoji-wan",
            num,
            1,
            densities,
            [0.3],
            only,
            [16],
            None,
            block=16,
            parts=1,
            work=tmp_path / "w",
            output=path,
        )

    run(1, [0.3], ["one"])
    assert measured == [(1, 0), (2, 0)], "alone, and with caching"
    run(2, [0.3, 0.1])
    later = [(1, 1), (2, 1), (1, 0), (1, 1), (1, 0), (1, 1), (0, 0), (0, 1)]
    assert measured[2:] == later, "caching is for one density; then caching alone, and fewer steps"
    result = loaded(path)
    names = [(row["technique"], row["density"], row["cached"]) for row in result["rows"]]
    alone = [("one", 0.3, False), ("one", 0.1, False), ("one", 0.3, True)]
    assert names == [("cache", 1.0, True), ("fewer steps", 1.0, False), *alone]
    assert all(row["psnr_db"] == 30.5 and len(row["per_video"]["psnr_db"]) == 2 for row in result["rows"])
    run(1, [0.5], ["one"])
    result = loaded(path)
    assert len(result["settings"]["prompts"]) == len(result["plain_motion_right"]) == 2, "of the most videos"
    assert len(measured) == 11
