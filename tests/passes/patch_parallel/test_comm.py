"""The door between ranks: every byte is counted, ranks out of step are found, and nobody waits for ever."""

import os
import signal
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks

from dit_accel.errors import CommunicationError
from dit_accel.passes.patch_parallel.comm import Comm
from dit_accel.passes.patch_parallel.mailbox import Mailbox
from dit_accel.passes.patch_parallel.traffic import Traffic
from dit_accel.passes.patch_parallel.transport import Pretended, ProcessGroup

TIMEOUT_S = 3.0


def _comm(size: int, *, careful: bool = False) -> Comm:
    transport = ProcessGroup(range(size), timeout_s=TIMEOUT_S)
    return Comm(transport, Traffic(), name="test", careful=careful)


def _count(rank: int, size: int) -> dict[str, Any]:
    comm = _comm(size, careful=True)
    rows = (3, 2, 2)
    own = torch.full((rows[rank], 4), float(rank))
    comm.step, comm.phase = 5, "steady"
    parts = comm.all_gather("a", own, [(count, 4) for count in rows]).take()
    above, below = comm.halo("b", own[:1], own[-1:], (1, 4), (1, 4)).take()
    total = comm.all_reduce("c", torch.full((6,), 1.0 + rank)).take()[0]
    comm.agree("seed", [7])
    traffic = comm.traffic
    return {
        "parts": [part.tolist() for part in parts],
        "above": above.tolist(),
        "below": below.tolist(),
        "total": total.tolist(),
        "gathered": traffic.of(op="all_gather", layer="a", step=5, phase="steady"),
        "halo": traffic.of(op="halo"),
        "all": traffic.of(phase="steady"),
        "control": traffic.of(phase="control").times,
        "own": own.tolist(),
    }


def test_counts_what_is_sent() -> None:
    told = on_ranks(_count, 3)
    for rank, each in enumerate(told):
        assert each["parts"] == [other["own"] for other in told]
        assert each["above"] == ([told[rank - 1]["own"][-1]] if rank else [])
        assert each["below"] == ([told[rank + 1]["own"][0]] if rank < 2 else [])
        assert each["total"] == [6.0] * 6
        gathered = each["gathered"]  # padded to the 3 rows of the largest
        assert (gathered.sent, gathered.received, gathered.times) == (2 * 3 * 4 * 4, 2 * 3 * 4 * 4, 1)
        neighbours = 1 if rank in (0, 2) else 2
        assert (each["halo"].sent, each["halo"].received) == (neighbours * 16, neighbours * 16)
        assert each["all"].sent == gathered.sent + each["halo"].sent + 2 * 2 * 24 // 3
        assert each["control"] == 4, "one number before each of three operations, and the seed"


def _other_order(rank: int, size: int, careful: bool) -> str:
    comm = _comm(size, careful=careful)
    layers = ("a", "b") if rank == 0 else ("b", "a")
    try:
        for layer in layers:
            comm.all_gather(layer, torch.ones(2), [(2,)] * size).take()
        comm.agree("nothing", [])
    except CommunicationError as error:
        return str(error)
    return "not found"


@pytest.mark.parametrize("careful", [True, False])
def test_ranks_that_are_not_in_step_are_found(careful: bool) -> None:
    for said in on_ranks(_other_order, 2, careful=careful):
        assert "same" in said and "ranks" in said
        if careful:
            assert "all_gather|" in said, "before anything is sent, and it says what was to come"


def _other_values(rank: int, size: int) -> str:
    with pytest.raises(CommunicationError, match="do not have the same latents") as found:
        _comm(size).agree("latents", [rank // 2])
    return str(found.value)


def test_different_values_are_found() -> None:
    assert "ranks 0 and 2" in on_ranks(_other_values, 3)[0]


def _survive(rank: int, size: int, how: str) -> dict[str, Any]:
    comm = _comm(size)
    comm.all_gather("before", torch.ones(1), [(1,)] * size).take()
    if rank == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(2.5 * TIMEOUT_S)  # hangs
        return {}
    began, said = time.monotonic(), []
    for layer in ("after", "later"):
        try:
            comm.all_gather(layer, torch.ones(1), [(1,)] * size).take()
        except CommunicationError as error:
            said.append(str(error))
    return {"said": said, "took_s": time.monotonic() - began, "pending": comm.num_pending}


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_a_dead_rank_ends_the_run_in_bounded_time(how: str) -> None:
    if how == "killed":
        with pytest.raises(CommunicationError, match=r"rank 1: ended without a word \(exit code -9\)"):
            on_ranks(_survive, 3, how=how)
        told = _told_by_the_living()
    else:
        told = [each for each in on_ranks(_survive, 3, how=how) if each]
    assert len(told) == 2
    for each in told:
        first, second = each["said"]
        assert "lost the others" in first and "'after'" in first
        assert second == first, "nothing more is sent after that, and the reason stays the same"
        assert each["took_s"] < 2 * TIMEOUT_S and not each["pending"]


def _told_by_the_living() -> list[dict[str, Any]]:
    """What the other ranks returned; the dead one's silence is the error that was checked before."""
    import multiprocessing

    queue = multiprocessing.get_context("fork").SimpleQueue()
    with pytest.raises(CommunicationError):
        on_ranks(_tell, 3, queue=queue)
    return [queue.get(), queue.get()]


def _tell(rank: int, size: int, queue: Any) -> None:
    queue.put(_survive(rank, size, "killed"))


def _in_the_air(rank: int, size: int) -> tuple[int, int, int]:
    comm = _comm(size)
    mailbox = Mailbox(comm, warmup=1)
    own = torch.full((4,), float(rank))
    for step in range(3):
        mailbox.begin(step, last=False)
        mailbox.gather("a", own + step, [(4,)] * size)
    before = comm.num_pending
    comm.drain()
    after = comm.num_pending
    mailbox.begin(3, last=False)
    mailbox.gather("b", own, [(4,)] * size)
    comm.abandon()
    return before, after, comm.num_pending


def test_what_is_on_its_way_is_drained() -> None:
    assert on_ranks(_in_the_air, 2) == [(1, 0, 0)] * 2


def _stale(rank: int, size: int) -> list[list[float]]:
    comm = _comm(size)
    mailbox = Mailbox(comm, warmup=2)
    seen = []
    for step in range(5):
        mailbox.begin(step, last=step == 4)
        parts = mailbox.gather("a", torch.tensor([10.0 * rank + step]), [(1,)] * size)
        seen.append([float(part) for part in parts])
    assert comm.num_pending == 0, "the last evaluation sends nothing"
    assert comm.traffic.of(phase="steady").times == 2
    return seen


def test_stale_values_are_those_of_the_evaluation_before() -> None:
    first, second = on_ranks(_stale, 2)
    assert first == [[0, 10], [1, 11], [2, 11], [3, 12], [4, 13]]
    assert second == [[0, 10], [1, 11], [1, 12], [2, 13], [3, 14]]


def test_a_rank_without_the_others_counts_the_same() -> None:
    comm = Comm(Pretended(1, 3), Traffic(), name="test")
    own = torch.ones(2, 4)
    parts = comm.all_gather("a", own, [(3, 4), (2, 4), (2, 4)]).take()
    assert [tuple(part.shape) for part in parts] == [(3, 4), (2, 4), (2, 4)]
    comm.halo("b", own[:1], own[-1:], (1, 4), (1, 4)).take()
    assert comm.traffic.of(op="all_gather").sent == 2 * 3 * 4 * 4
    assert comm.traffic.of(op="halo").sent == 2 * 16


class _Work:
    """Stands for what torch.distributed returns, and notes how it was waited for."""

    def __init__(self, waited: list[tuple[Any, ...]]) -> None:
        self.waited = waited

    def wait(self, *timeout: Any) -> None:
        self.waited.append(timeout)


@pytest.mark.parametrize(
    ("backends", "given"),
    [("cpu:gloo,cuda:nccl", (timedelta(seconds=TIMEOUT_S),)), ("cpu:nccl,cuda:gloo", ())],
    ids=["gloo", "nccl"],
)
def test_the_host_waits_for_gloo_only(
    monkeypatch: pytest.MonkeyPatch, backends: str, given: tuple[timedelta, ...]
) -> None:
    """With a time given, NCCL would stop the host until the work is done: nothing would overlap."""
    waited: list[tuple[Any, ...]] = []
    groups: list[timedelta] = []
    monkeypatch.setattr(dist, "new_group", lambda ranks, timeout: groups.append(timeout) or "group")
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_backend_config", lambda group: backends)
    monkeypatch.setattr(dist, "all_gather_into_tensor", lambda *a, **k: _Work(waited))
    monkeypatch.setattr(dist, "all_reduce", lambda *a, **k: _Work(waited))
    monkeypatch.setattr(dist, "P2POp", lambda op, tensor, peer, group: SimpleNamespace(tensor=tensor))
    monkeypatch.setattr(dist, "batch_isend_irecv", lambda operations: [_Work(waited)])
    comm, own = _comm(2), torch.ones(2)
    comm.all_gather("a", own, [(2,)] * 2).take()
    comm.halo("b", own, own, (2,), (2,)).take()
    comm.all_reduce("c", own).take()
    assert waited == [given] * 3
    assert groups == [timedelta(seconds=TIMEOUT_S)], "which NCCL's watchdog goes by"
