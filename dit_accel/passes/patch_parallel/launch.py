"""Joining a job that torchrun or accelerate has started, and making one of local processes, which never outlive us."""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dit_accel.errors import CommunicationError, ConfigError

LAUNCH = "torchrun --nproc-per-node {size} -m dit_accel ..."


def launched_size() -> int:
    """Processes of the job that a launcher has started this one in; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(size: int, *, device: str = "auto", timeout_s: float) -> Iterator[int]:
    """Be one rank of the job that a launcher has started; yields the rank.

    NCCL where every rank of this machine has a GPU of its own, gloo on the CPU.

    Args:
        size: How many ranks are expected.
        device: Where the pipeline is to run: ``"auto"``, ``"cpu"`` or ``"cuda"``, which is then this rank's own GPU.
        timeout_s: After which ranks that do not come, or do not answer, are given up.

    Raises:
        ConfigError: The job has another size, or there is none; or it has more ranks than GPUs.
        CommunicationError: Not all ranks have come.
    """
    import torch
    import torch.distributed as dist

    found = launched_size()
    if found != size:
        how = LAUNCH.format(size=size)
        raise ConfigError(
            f"--parallel {size} needs {size} processes, and there {'is one' if found == 1 else f'are {found}'}: "
            f"start it as '{how}', or on GPUs 'accelerate launch --num-processes {size} -m dit_accel ...'"
        )
    on_gpus = device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", str(size))), torch.cuda.device_count()
        if here > gpus:
            raise ConfigError(f"{here} ranks on a machine of {gpus} GPUs: start as many as there are, or --device cpu")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        raise CommunicationError(f"the {size} ranks of this job did not find each other: {error}") from error
    try:
        yield dist.get_rank()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def is_first_to_say() -> bool:
    """Whether no other rank of the job has asked this before: one error is enough. Where that is unknown, yes."""
    from torch.distributed import distributed_c10d

    try:
        store = distributed_c10d._get_default_store()
        return int(store.add("dit_accel/said", 1)) == 1
    except (RuntimeError, ValueError, AttributeError):
        return True


def run_on_ranks(
    function: Callable[..., Any],
    size: int,
    *,
    arguments: Mapping[str, Any] | None = None,
    timeout_s: float = 60.0,
    method: str = "fork",
    on_gpus: bool = False,
) -> list[Any]:
    """Run a function on local ranks, one torch thread each, and return what each returned.

    Args:
        function: Called as ``function(rank, size, **arguments)`` in a process that has joined a gloo job.
        size: Processes.
        arguments: For the function.
        timeout_s: For the whole; also how long a rank waits for the others.
        method: ``"fork"`` starts at once and shares what is imported; ``"spawn"`` starts anew, as GPUs need it.
        on_gpus: Give each rank a GPU, and the job NCCL.

    Raises:
        CommunicationError: Ranks have failed, or were not done in time. All are ended before it leaves; the message
            has what each said.
    """
    context: Any = multiprocessing.get_context(method)
    with tempfile.TemporaryDirectory(prefix="dit-accel-ranks-") as folder:
        store = f"file://{Path(folder).resolve() / 'store'}"
        started = []
        try:
            for rank in range(size):
                mine, theirs = context.Pipe(duplex=False)
                given = (function, rank, size, store, timeout_s, dict(arguments or {}), on_gpus, theirs)
                process = context.Process(target=_rank, args=given, daemon=True)
                process.start()
                theirs.close()
                started.append((process, mine))
            return _results(started, time.monotonic() + timeout_s)
        finally:
            for process, pipe in started:
                if process.is_alive():
                    process.kill()
                process.join()
                pipe.close()


def _results(started: Sequence[tuple[Any, Connection]], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    said: dict[int, str] = {}
    open_pipes = {pipe: rank for rank, (_, pipe) in enumerate(started)}
    while open_pipes:
        ready = wait(list(open_pipes), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            said.update(dict.fromkeys(open_pipes.values(), "was not done in time"))
            break
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = open_pipes.pop(pipe)
            try:
                ok, value = pipe.recv()
            except EOFError:
                started[rank][0].join(5)
                ok, value = False, f"ended without a word (exit code {started[rank][0].exitcode})"
            (results if ok else said)[rank] = value
    if said:
        told = "; ".join(f"rank {rank}: {words}" for rank, words in sorted(said.items()))
        raise CommunicationError(f"{len(said)} of {len(started)} ranks failed. {told}")
    return [results[rank] for rank in range(len(started))]


def _rank(
    function: Callable[..., Any],
    rank: int,
    size: int,
    store: str,
    timeout_s: float,
    arguments: dict[str, Any],
    on_gpus: bool,
    pipe: Connection,
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        if on_gpus:
            torch.cuda.set_device(rank)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            init_method=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_s),
        )
        value = function(rank, size, **arguments)
        pipe.send((True, value))
        dist.barrier()
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        pipe.send((False, f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"))
    finally:
        pipe.close()
        # No clean-up of what may hang: the parent has everything, and a rank that is gone tells the others.
        os._exit(0)
