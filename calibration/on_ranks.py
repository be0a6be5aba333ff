"""Hands that are the ranks of ``accelerate launch`` or ``torchrun``: one process per device, rank 0 leads.

All ranks run the same command. Rank 0 alone searches and writes; the others load the pipeline on their device and
judge what they are told, every so-and-so-many-th candidate of a batch. Messages are a few numbers and go by gloo, so
that nothing depends on what kind of device there is. When a rank dies the launcher ends them all, and the same command
goes on from the books.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from dit_accel.calibration.spread import Answer, AnyErrand, Map, Task
from dit_accel.errors import DitAccelError

PATIENCE = timedelta(days=7)  # the others wait while rank 0 records, which takes hours on a large video model


def launched() -> bool:
    """Whether this process is one of several that a launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def leads() -> bool:
    """Whether this is rank 0, or alone."""
    return not launched() or int(os.environ["RANK"]) == 0


def own_device(wanted: str) -> str:
    """The device of this rank, where the user leaves the choice: its GPU of this machine, else the CPU."""
    import torch

    if wanted != "auto" or not launched() or not torch.cuda.is_available():
        return wanted
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def meet() -> None:
    """Wait until all ranks are there."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)


@contextmanager
def on_ranks(errand: AnyErrand, judge: Callable[[Task], Answer]) -> Iterator[Map]:
    """Rank 0's map. Its own share is judged by its own judge."""
    _told(errand)

    def judge_all(batch: Sequence[Task]) -> Iterator[Answer]:
        yield from map(errand.read, _shared(judge, _told(tuple(batch))))

    yield judge_all
    _told(None)  # not after an error: then the launcher ends the others


def serve(pipe: Any) -> None:
    """What the other ranks do, until rank 0 is done."""
    errand = _told()
    if errand is None:
        return
    judge = errand.judge_on(pipe)
    while (batch := _told()) is not None:
        _shared(judge, batch)


def _told(message: Any = None) -> Any:
    """What rank 0 says to all."""
    box = [message]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _shared(judge: Callable[[Task], Answer], batch: Sequence[Task]) -> list[dict[str, Any]]:
    """Judge this rank's share, and gather everybody's verdicts as data, in the order of the batch."""
    count, own = dist.get_world_size(), dist.get_rank()
    mine: dict[int, Any] = {}
    try:
        mine = {place: judge(batch[place]).to_plain() for place in range(own, len(batch), count)}
    except Exception as error:  # all must come to the gathering, or the others wait for ever
        mine = {-1: f"rank {own} failed: {type(error).__name__}: {error}"}
    gathered: list[Any] = [None] * count
    dist.all_gather_object(gathered, mine)
    found = {place: each for part in gathered for place, each in part.items()}
    if -1 in found:
        raise DitAccelError(found[-1])
    return [found[place] for place in range(len(batch))]
