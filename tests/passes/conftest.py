"""Make the helpers of this folder, and ``snapshot`` of the runtime's, importable; load each embedded pipeline once."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "runtime"), str(HERE.parent / "training" / "distill")]


@pytest.fixture(scope="session")
def _embedded() -> Callable[[str], Any]:
    from dit_accel import load_embedded

    loaded: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in loaded:
            loaded[name] = load_embedded(name)
            loaded[name].set_progress_bar_config(disable=True)
        return loaded[name]

    return load


@pytest.fixture
def embedded(_embedded: Callable[[str], Any]) -> Iterator[Callable[[str], Any]]:
    """Gives an embedded pipeline by name; it is plain again after the test."""
    from dit_accel import is_accelerated, remove_acceleration

    used: list[Any] = []

    def load(name: str) -> Any:
        used.append(_embedded(name))
        return used[-1]

    yield load
    for pipe in used:
        if is_accelerated(pipe):
            remove_acceleration(pipe)
