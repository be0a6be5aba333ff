"""The page of several devices: what its tables say of a report, and which ways are compared."""

from typing import Any

import pytest
from pages.parallel import parallel_block, simulator_block
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
    assert "| sync | 20 ms | 1.00 s | 2.00 s | 2.20 s | +10% | 10% | 0% |" in page


def test_all_that_the_issue_asks_for_is_compared() -> None:
    names = [way.name for way in ways()]
    assert len(set(names)) == len(names)
    assert {"sync", *(f"{mode}, warm-up {n}" for mode in ("stale", "partial") for n in (1, 2, 4))} <= set(names)
    assert all(way.config.guidance == "off" for way in ways() if not way.name.startswith("guidance"))
