"""One job at a time, which can be stopped at a step and leaves the pipeline as it was."""

import threading
from pathlib import Path

import pytest
import torch
from tiny_text import tiny_text_pipeline

from dit_accel.api import is_accelerated
from dit_accel.app.device import BusyError, CancelledError, Device
from dit_accel.app.places import Places
from dit_accel.errors import IrreversibleError
from dit_accel.passes.quantize.config import QuantizeConfig
from dit_accel.pipelines.generation import GenerationSettings

SETTINGS = GenerationSettings(num_inference_steps=4)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    made = Device(places=Places(root=tmp_path, output=tmp_path))
    made._pipes["tiny"] = tiny_text_pipeline()
    return made


def test_steps_are_told_and_the_pipeline_is_left_as_it_was(device: Device) -> None:
    pipe = device._pipes["tiny"]
    before = set(vars(pipe))
    told: list[tuple[int, int]] = []
    with device.job("drawing"):
        drawn = device.draw("tiny", "a cat", 0, SETTINGS, "fast", lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert drawn.sample.dim() == 3 and drawn.seconds > 0
    assert "not certified" in drawn.summary and not drawn.certified
    assert set(vars(pipe)) == before and not is_accelerated(pipe)


def test_a_stopped_job_ends_at_its_next_step(device: Device) -> None:
    told: list[int] = []

    def stop_after_two(done: int, total: int) -> None:
        told.append(done)
        if done == 2:
            assert not device.stop("somebody else")
            assert device.stop("me")

    with device.job("drawing", "me"):
        plain = device.draw("tiny", "a cat", 0, SETTINGS)
        with pytest.raises(CancelledError, match="stopped after 2 of 4 steps"):
            device.draw("tiny", "a cat", 0, SETTINGS, "fast", stop_after_two)
    assert told == [1, 2] and not is_accelerated(device._pipes["tiny"])
    assert device.doing == ""
    with device.job("drawing", "me"):
        assert torch.equal(device.draw("tiny", "a cat", 0, SETTINGS).sample, plain.sample)


def test_a_plan_that_cannot_be_undone_is_not_applied(device: Device) -> None:
    """The pipeline is kept, so whoever draws next would get its weights."""
    with device.job("drawing"):
        plain = device.draw("tiny", "a cat", 0, SETTINGS)
        with pytest.raises(IrreversibleError, match="cannot be undone"):
            device.draw("tiny", "a cat", 0, SETTINGS, QuantizeConfig(bits="w4a8", originals="drop"))
        assert not is_accelerated(device._pipes["tiny"])
        assert torch.equal(device.draw("tiny", "a cat", 0, SETTINGS).sample, plain.sample)


def test_the_second_comer_is_told_what_is_going_on(device: Device) -> None:
    inside, go = threading.Event(), threading.Event()

    def first() -> None:
        with device.job("drawing with tiny"):
            inside.set()
            go.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    with pytest.raises(BusyError, match="drawing with tiny, for"), device.job("another"):
        pass
    go.set()
    thread.join()
    with device.job("another"):
        pass
