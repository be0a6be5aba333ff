"""Drawing for the tab Explore, without a browser: in order, stopped, out of date, without memory or device."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_text import tiny_text_pipeline

from dit_accel.app.device import Device
from dit_accel.app.drawing import Drawing, Step
from dit_accel.app.library import Library
from dit_accel.app.pictures import Kept
from dit_accel.app.places import Places
from dit_accel.app.points import Front, FrontPoint
from dit_accel.app.views import Choice, Explorer
from dit_accel.app.visits import MAX_VISITS, Visits

PLAIN = FrontPoint(key="plain", label="plain", kind="plain", num_steps=3)
FAST = FrontPoint(key="ours/fast", label="fast", kind="ours", num_steps=3, preset="fast", ratio=1.6)
THEIRS = FrontPoint(key="rival/x", label="x", kind="rival", num_steps=3)
OPENED = {"tiny": Front(model="tiny", points=(PLAIN, FAST, THEIRS), plain_s=0.1, num_steps=3)}
CHOICE = Choice(model="tiny", metric="psnr_db", rivals=False, key="ours/fast")


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    device = Device(places=Places(root=tmp_path, output=tmp_path))
    device._pipes["tiny"] = tiny_text_pipeline()
    return Drawing(Explorer(Library(()), device, Kept(tmp_path / "pictures")), Visits())


def steps(drawing: Drawing, choice: Choice = CHOICE, most_s: float = 100.0, opened: Any = OPENED) -> list[Step]:
    return list(drawing.steps(choice, opened, 0, "me", most_s))


def test_the_pair_comes_first_then_the_thumbnails(drawing: Drawing) -> None:
    found = steps(drawing)
    assert found[-1].pair is not None and len(found[-1].pair) == 2 and not found[-1].words
    assert [label for _, label in found[-1].thumbs or ()] == ["plain", "fast"] and found[-1].selected == 1
    assert any(step.busy and "step" in step.words for step in found)
    kept = steps(drawing, most_s=0.0)
    assert kept[-1].pair is not None, "what is kept takes no time"


def test_what_takes_long_or_was_never_timed_is_asked_for(drawing: Drawing) -> None:
    (slow,) = steps(drawing, most_s=0.0)
    assert slow.can_draw and "takes about" in slow.words and slow.pair == ()
    untimed = {"tiny": replace(OPENED["tiny"], plain_s=None)}
    (asked,) = steps(drawing, opened=untimed)
    assert asked.can_draw and "Nobody has timed" in asked.words
    drawn = steps(drawing, opened=untimed, most_s=float("inf"))[-1]
    assert drawn.pair is not None and drawn.thumbs == (), "of a model of one's own only what was asked for is drawn"


def test_a_rival_is_not_drawn(drawing: Drawing) -> None:
    (step,) = steps(drawing, replace(CHOICE, key="rival/x"))
    assert step.pair == () and "does not run it" in step.words and not step.can_draw


def test_something_newer_ends_it_at_the_next_step(drawing: Drawing) -> None:
    newer = (replace(CHOICE, key="plain"), 0)
    drawing.visits.look("me", (CHOICE, 0))
    going = drawing.steps(CHOICE, OPENED, 0, "me", 100.0)
    next(going)
    drawing.visits.look("me", newer)
    assert all(step.pair is None or step.busy for step in going)
    assert steps(drawing) == [], "one that begins too late does not begin"
    drawing.visits.look("me", (CHOICE, 0))
    assert steps(drawing)[-1].pair is not None


def test_the_device_is_free_again_after_a_stop(drawing: Drawing, monkeypatch: pytest.MonkeyPatch) -> None:
    device, draw = drawing.explorer.device, Device.draw

    def stopped(self: Device, *args: Any, **kwargs: Any) -> Any:
        self.stop("me")
        return draw(self, *args, **kwargs)

    monkeypatch.setattr(Device, "draw", stopped)
    last = steps(drawing)[-1]
    assert "stopped" in last.words and last.can_draw and not last.busy
    assert device.doing == ""


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), ZeroDivisionError("x")]
)
def test_no_memory_lets_the_model_go(drawing: Drawing, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def draw(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(Device, "draw", draw)
    last = steps(drawing)[-1]
    short = not isinstance(error, ZeroDivisionError)
    assert ("not enough memory" in last.words) == short and last.can_draw
    assert (drawing.explorer.device.loaded("tiny") is None) == short
    assert drawing.explorer.device.doing == ""


def test_a_busy_device_is_said(drawing: Drawing) -> None:
    drawing.explorer.device.others = lambda: "the search 'x' runs on it"
    last = steps(drawing)[-1]
    assert "the search &#x27;x&#x27; runs on it" in last.words and last.can_draw


def test_visits_are_forgotten_in_the_end() -> None:
    visits = Visits()
    for number in range(MAX_VISITS + 5):
        visits.look(f"{number}", (CHOICE, 0))
    assert visits.latest("0") is None and visits.latest(f"{MAX_VISITS}") is not None
    visits.look("", (CHOICE, 0))
    assert visits.is_current("", (replace(CHOICE, key="other"), 0)), "calls of the API have no visit"


def test_what_a_visitor_set_by_hand_is_not_taken_back_by_what_comes_late(drawing: Drawing) -> None:
    gr = pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    from dit_accel.app.explore_values import SET_BY_HAND, SHOWN
    from dit_accel.app.tab_explore import ExploreTab

    with gr.Blocks():
        tab = ExploreTab(drawing.explorer, "emoji-flux", gr.State({}))
    choice = drawing.explorer.first("emoji-flux")
    visit = SimpleNamespace(session_hash="me")
    for rivals in (False, True):  # on the way while the other value is clicked
        tab.visits.look("me", (replace(choice, rivals=rivals), 0))
        latest, *values = tab.refresh(choice, {}, visit)
        assert latest.rivals is rivals
        skipped = {name for name, value in zip(SHOWN, values, strict=True) if value == gr.skip()}
        assert skipped == set(SET_BY_HAND)
