"""How tensors get from rank to rank: torch.distributed, or nothing but copies where ranks are only pretended."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch

Message = tuple[int, torch.Tensor]  # a rank of the group, and what it is sent, or what it fills


class Handle(Protocol):
    """Something on its way."""

    def wait(self) -> None:
        """Return when it has arrived.

        Raises:
            RuntimeError: It will not.
        """
        ...


class Transport(Protocol):
    """One group of ranks. Tensors are contiguous and one-dimensional, and stay untouched until they were waited for.

    Attributes:
        rank: This one, within the group.
        size: Ranks of the group.
    """

    rank: int
    size: int

    def all_gather(self, parts: torch.Tensor, own: torch.Tensor) -> Handle:
        """Fill ``parts`` [size × n] with ``own`` [n] of every rank."""
        ...

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> Handle:
        """Send to some ranks and receive from some."""
        ...

    def all_reduce(self, total: torch.Tensor) -> Handle:
        """Replace a tensor by its sum over all ranks."""
        ...


class _Works:
    """Handles of torch.distributed, waited for as one.

    Args:
        works: Of operations that were begun.
        timeout: How long the host waits for each; ``None``: the stream waits, and the host goes on.
    """

    def __init__(self, works: Sequence[Any], timeout: timedelta | None = None) -> None:
        self._works = works
        self._timeout = timeout

    def wait(self) -> None:
        for work in self._works:
            if self._timeout is None:
                work.wait()
            else:
                work.wait(self._timeout)


class ProcessGroup:
    """A group of torch.distributed: gloo for tensors on the CPU, NCCL for those on GPUs.

    Args:
        ranks: Global ranks of its members. Every process of the job has to make every group, in the same order.
        timeout_s: After which a rank that does not answer is given up.
    """

    def __init__(self, ranks: Sequence[int], *, timeout_s: float) -> None:
        import torch.distributed as dist

        self.ranks = tuple(ranks)
        self.size = len(self.ranks)
        self.timeout = timedelta(seconds=timeout_s)
        self.group: Any = dist.new_group(list(ranks), timeout=self.timeout)
        me = dist.get_rank()
        self.rank = self.ranks.index(me) if me in self.ranks else -1

    def all_gather(self, parts: torch.Tensor, own: torch.Tensor) -> Handle:
        import torch.distributed as dist

        work = dist.all_gather_into_tensor(parts, own, group=self.group, async_op=True)
        return _Works([work], self._patience(own))

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> Handle:
        import torch.distributed as dist

        operations = [dist.P2POp(dist.isend, each, self.ranks[peer], group=self.group) for peer, each in sends]
        operations += [dist.P2POp(dist.irecv, each, self.ranks[peer], group=self.group) for peer, each in receives]
        if not operations:
            return _Works([])
        return _Works(dist.batch_isend_irecv(operations), self._patience(operations[0].tensor))

    def all_reduce(self, total: torch.Tensor) -> Handle:
        import torch.distributed as dist

        return _Works([dist.all_reduce(total, group=self.group, async_op=True)], self._patience(total))

    def _patience(self, tensor: torch.Tensor) -> timedelta | None:
        """How long the host waits for such a tensor.

        Only gloo needs to be told. NCCL lets the stream wait, and would stop the host as well if it were given a time;
        its watchdog knows the group's, and ends the process when that is over.
        """
        import torch.distributed as dist

        by_gloo = f"{tensor.device.type}:gloo" in dist.get_backend_config(self.group).split(",")
        return self.timeout if by_gloo else None

    def close(self) -> None:
        """Take the group down; also when the job it belonged to is over already."""
        import torch.distributed as dist

        if self.rank >= 0 and dist.is_initialized():
            dist.destroy_process_group(self.group)


class Pretended:
    """One rank without the others: everybody sends what this one does. Values are wrong, shapes and bytes are right.

    It tells what one rank of many has to compute, and how much it sends, on a machine that has no others.

    Args:
        rank: The rank that is played.
        size: How many there would be.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def all_gather(self, parts: torch.Tensor, own: torch.Tensor) -> Handle:
        parts.view(self.size, -1).copy_(own)
        return _Works([])

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> Handle:
        for _, part in receives:
            part.zero_()
        return _Works([])

    def all_reduce(self, total: torch.Tensor) -> Handle:
        return _Works([])

    def close(self) -> None:
        """Nothing to take down."""
