"""What other libraries log while a command runs."""

import logging
from collections.abc import Iterator

import pytest

from dit_accel.cli.model import TruncationOnce, hush_loading

CUT = "The following part of your input was truncated because CLIP can only handle sequences up to 77 tokens: %s"


class Shown(logging.Handler):
    """Keeps what it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def handler() -> Iterator[Shown]:
    """One of diffusers' own."""
    made, logger = Shown(), logging.getLogger("diffusers")
    level = logger.level  # other tests may have silenced it
    logger.addHandler(made)
    logger.setLevel(logging.WARNING)
    yield made
    logger.setLevel(level)
    logger.removeHandler(made)


def test_cut_prompts_are_told_once_and_shortly(handler: Shown) -> None:
    hush_loading()
    hush_loading()
    logger = logging.getLogger("diffusers.pipelines.tests")
    for _ in range(3):
        logger.warning(CUT, ["in a field of flowers", *["<pad>" * 100] * 20])
    logger.warning("something else")
    first, other = handler.lines
    assert "in a field of flowers" in first and first.endswith("... (said once, for the first of such prompts)")
    assert len(first) < 400 and other == "something else"
    assert len([f for f in handler.filters if isinstance(f, TruncationOnce)]) == 1


def test_a_short_one_stays_whole(handler: Shown) -> None:
    hush_loading()
    logging.getLogger("diffusers.pipelines.tests").warning(CUT, ["very fine"])
    assert handler.lines == [f"{CUT % ['very fine']} (said once, for the first of such prompts)"]
