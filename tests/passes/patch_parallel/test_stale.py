"""Stale values: what they are, how wrong they make a picture, and that they travel beside the computation."""

from typing import Any

import pytest
import torch
from ranks import apart, drawn, latents_of, on_ranks, parallel, plain
from tiny import tiny_call, tiny_pipeline

from dit_accel import PatchParallelConfig, accelerate_pipeline


def settings(mode: str, **more: Any) -> dict[str, Any]:
    return {"mode": mode, "guidance": "off", "warmup": 1, **more}


@pytest.mark.parametrize("name", ["pixart", "flux", "wan"])
def test_the_whole_neighbour_as_halo_is_distrifusion(name: str) -> None:
    call = {"num_inference_steps": 6}
    stale, partial, half = drawn(
        2, name, settings("stale"), settings("partial", halo=1.0), settings("partial", halo=0.5), **call
    )
    assert apart(partial[0].picture, stale[0].picture) < 1e-6
    assert partial[0].sent() == stale[0].sent()
    assert apart(half[0].picture, stale[0].picture) > 1e-6
    assert half[0].sent(phase="steady") < stale[0].sent(phase="steady")


@pytest.mark.parametrize(("name", "steps"), [("flux", 10), ("sd", 6), ("sana", 10)])
def test_error_falls_with_warm_up(name: str, steps: int) -> None:
    expected = plain(name, num_inference_steps=steps)
    warmups = (1, steps // 2, steps - 1)
    made = drawn(2, name, *(settings("stale", warmup=count) for count in warmups), num_inference_steps=steps)
    errors = [apart(ranks[0].picture, expected) for ranks in made]
    assert errors[0] > errors[1] > errors[2] > 0


def test_widths_that_do_not_halve() -> None:
    """Of 9 columns a UNet's convolutions make 5, and 3 of these."""
    call = {"num_inference_steps": 5, "height": 64, "width": 72}
    stale, whole, part = drawn(
        2, "sd", settings("stale"), settings("partial", halo=1.0), settings("partial", halo=0.3), **call
    )
    assert apart(whole[0].picture, stale[0].picture) < 1e-6
    assert 1e-6 < apart(part[0].picture, plain("sd", **call)) < 1
    assert part[0].sent(phase="steady") < stale[0].sent(phase="steady")


def test_error_falls_with_steps() -> None:
    errors = []
    for steps in (6, 24):
        ((made, _),) = drawn(2, "flux", settings("stale"), num_inference_steps=steps)
        errors.append(apart(made.picture, plain("flux", num_inference_steps=steps)))
    assert errors[0] > errors[1] > 0


def test_nothing_of_an_earlier_run_is_used() -> None:
    for first, second in on_ranks(_twice, 2):
        assert first == second


def _twice(rank: int, size: int) -> list[list[float]]:
    """The second run follows another one, with another size, and draws what it draws alone."""
    made = []
    for before in (False, True):
        pipe = tiny_pipeline("pixart")
        accelerate_pipeline(pipe, PatchParallelConfig(**settings("stale")), strict=True)
        if before:
            pipe(**tiny_call("pixart", seed=3, height=128))
        made.append(latents_of(pipe(**tiny_call("pixart"))).flatten().tolist())
    return made


def _events(rank: int, size: int, mode: str) -> list[tuple[str, str, str, int]]:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, PatchParallelConfig(**settings(mode)), strict=True)
    comm = parallel(pipe).groups.everybody
    comm.transport = Slow(comm.transport, comm)
    comm.events = []
    pipe(**tiny_call("pixart"))
    return comm.events


class Slow:
    """A transport that delivers when it is waited for and not before: a delay that no clock has to measure."""

    def __init__(self, inner: Any, comm: Any) -> None:
        self.rank, self.size, self.inner = inner.rank, inner.size, inner

    def all_gather(self, parts: torch.Tensor, own: torch.Tensor) -> Any:
        return Held(lambda: self.inner.all_gather(parts, own))

    def exchange(self, sends: Any, receives: Any) -> Any:
        return Held(lambda: self.inner.exchange(sends, receives))


class Held:
    def __init__(self, start: Any) -> None:
        self.start = start

    def wait(self) -> None:
        self.start().wait()


@pytest.mark.parametrize("mode", ["sync", "stale", "partial"])
def test_what_travels_is_hidden_behind_the_computation(mode: str) -> None:
    """Even if nothing arrives before it is waited for: between sending and waiting a whole evaluation is computed."""
    layers = 3
    for events in on_ranks(_events, 2, mode=mode):
        sent = [(place, event) for place, event in enumerate(events) if event[0] == "post" and event[2] != "output"]
        sent = [(place, event) for place, event in sent if "latents" not in event[2] and "order" not in event[2]]
        assert len(sent) == layers * (6 if mode == "sync" else 5)
        for place, (_, operation, layer, step) in sent:
            waited = events.index(("wait", operation, layer, step), place)
            computed = [event for event in events[place:waited] if event[0] == "compute"]
            assert len(computed) == (0 if mode == "sync" or step == 0 else layers)
