"""The page of several devices: what its tables say of a report, and which ways are compared."""

from typing import Any

import pytest
from pages.parallel import parallel_block, simulator_block
from pages.parallel_plan import parallel_plan_block
from parallel import ways

from dit_accel.errors import ConfigError

ENVIRONMENT = {"packages": {"torch": "2", "diffusers": "1"}}


def _cell(
    way: str, number: int, psnr_db: float, *, ranks: int = 2, equal: bool = False, **more: Any
) -> dict[str, Any]:
    sent = {"steady": 3 * 2**20, "output": 2**20} if way == "stale" else {"warmup": 2**20}
    return {
        "model": "emoji-flux",
        "ranks": ranks,
        "way": way,
        "steps": 20,
        "number": number,
        "psnr_db": psnr_db,
        "equal": equal,
        "largest_difference": 0.0 if equal else 0.5,
        "sent_by_rank": [sent, {"control": 2**19}],
        "stale_evaluations": 3 if way == "stale" else 0,
        **more,
    }


def test_the_three_figures() -> None:
    cells = [_cell("sync", 0, 100.0, equal=True), _cell("stale", 0, 40.0), _cell("stale", 1, 30.0)]
    cells.append(_cell("sync", 1, 100.0, largest_difference=6e-7))
    page = parallel_block(
        {"format": "dit-accel/parallel", "cells": cells, "environment": ENVIRONMENT, "created_utc": "2026-01-01T00"}
    )
    assert "`emoji-flux`, 20 steps, n = 2:" in page
    assert "| stale | 35.0 (30.0) | 1.00 | 4.50 | 4.00 |" in page
    assert "| sync | within 6e-07 |  | 1.50 | 1.00 |" in page
    with pytest.raises(ConfigError):
        parallel_block({"format": "another"})


def test_the_simulator_beside_real_runs() -> None:
    cell = {
        "mode": "sync",
        "delay_ms": 20.0,
        "without_delay_s": 1.0,
        "measured_s": 2.0,
        "foretold_s": 2.2,
        "hidden_measured": 0.1,
        "hidden_foretold": 0.0,
    }
    data = {"format": "dit-accel/parallel-simulator", "model": "m", "ranks": 2, "steps": 8, "warmup": 2, "repeats": 3}
    page = simulator_block({**data, "cells": [cell], "created_utc": "2026-01-01T00"})
    assert "| sync | 20 ms | 1.00 s | not measured yet | 2.00 s | 2.20 s | +10% | 10% | 0% |" in page
    page = simulator_block({**data, "cells": [{**cell, "played_s": 0.9}], "created_utc": "2026-01-01T00"})
    assert "| sync | 20 ms | 1.00 s | 0.90 s | 2.00 s |" in page


def test_a_rank_is_played_for_every_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import parallel_simulator

    def way(name: str, waiting: float, steady: float | None = None) -> SimpleNamespace:
        late = None if steady is None else SimpleNamespace(compute_s=steady)
        return SimpleNamespace(name=name, waiting=SimpleNamespace(compute_s=waiting), steady=late)

    ways = [way("patches, sync", 2.0), way("patches, stale", 2.0, 1.0), way("patches, partial", 2.0, 0.5)]
    monkeypatch.setattr(parallel_simulator, "measure", lambda *_: SimpleNamespace(ways=ways))
    monkeypatch.setattr(parallel_simulator, "makes_video", lambda _: False)
    assert parallel_simulator.played(None, 2, 10) == {"sync": 20.0, "stale": 12.0, "partial": 8.0}


def test_what_is_foretold_before_anyone_rents() -> None:
    way = {
        "name": "guidance", "picture_s": 1.234, "speedup": 1.9, "exact": True, "computed_frac": 0.5, "sent_mib": 0.16,
        "waited_frac": 0.02, "hidden_frac": 0.0,
    }  # fmt: skip
    alone = {**way, "name": "data", "picture_s": 2.345, "speedup": 1.0, "computed_frac": 1.0, "sent_mib": 0.0}
    data = {
        "model": "m", "ranks": 2, "steps": 20, "link": {"gb_per_s": 10.0, "latency_us": 20.0}, "evaluation_s": 0.1,
        "ways": [way, alone], "refused": {"sequence (Ulysses)": "no plan"}, "verdict": ["Guidance.", "Nothing stale."],
        "environment": {**ENVIRONMENT, "torch_threads": 1, "cpu": "C"}, "created_utc": "2026-01-01T00",
    }  # fmt: skip
    page = parallel_plan_block(data)
    assert "| guidance | 1.23 s | 1.90x | yes | 50% | 0.16 MiB | 2% | 0% |" in page
    assert "| data | 2.35 s | 1.00x | yes | 100% | 0.00 MiB | 2% |  |" in page
    assert "- sequence (Ulysses): no, no plan" in page and "> Guidance. Nothing stale." in page
    with pytest.raises(ConfigError, match="not the JSON of dit-accel parallel-plan"):
        parallel_plan_block({"ways": []})


def test_all_that_the_issue_asks_for_is_compared() -> None:
    names = [way.name for way in ways()]
    assert len(set(names)) == len(names)
    assert {"sync", *(f"{mode}, warm-up {n}" for mode in ("stale", "partial") for n in (1, 2, 4))} <= set(names)
    assert all(way.config.guidance == "off" for way in ways() if not way.name.startswith("guidance"))
