"""Which ranks speak with which: all of them about patches, or halves about patches and pairs about guidance."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dit_accel.passes.patch_parallel.comm import Comm
from dit_accel.passes.patch_parallel.config import PatchParallelConfig
from dit_accel.passes.patch_parallel.traffic import Traffic
from dit_accel.passes.patch_parallel.transport import Pretended, ProcessGroup

_PRETENDED: ContextVar[tuple[int, int] | None] = ContextVar("pretended", default=None)


@contextmanager
def pretending(rank: int, size: int) -> Iterator[None]:
    """What is accelerated within plays one rank of many: right work and right bytes, wrong pictures."""
    token = _PRETENDED.set((rank, size))
    try:
        yield
    finally:
        _PRETENDED.reset(token)


def job() -> tuple[int, int]:
    """Rank and size of the job that this process belongs to; (0, 1): of none."""
    pretended = _PRETENDED.get()
    if pretended is not None:
        return pretended
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


class Groups:
    """The groups of one denoiser.

    Ranks 0 to N/2 - 1 are the first half; rank r of it and rank r + N/2 have the same rows of the two branches.

    Args:
        config: Of the pass.
        halves: Whether halves and pairs are wanted, too.

    Attributes:
        everybody: For patches where guidance is not split.
        half: For patches where it is.
        pair: For the two branches' outputs.
        traffic: The books of all.
    """

    def __init__(self, config: PatchParallelConfig, *, halves: bool) -> None:
        self.rank, self.size = job()
        self.traffic = Traffic()
        self._config = config
        self._transports: list[ProcessGroup | Pretended] = []
        self.everybody = self._comm([tuple(range(self.size))], "all ranks")
        self.half: Comm | None = None
        self.pair: Comm | None = None
        if halves:
            middle = self.size // 2
            self.half = self._comm([tuple(range(middle)), tuple(range(middle, self.size))], "one guidance branch")
            self.pair = self._comm([(r, r + middle) for r in range(middle)], "the two guidance branches")

    @property
    def comms(self) -> tuple[Comm, ...]:
        """All that there are."""
        return tuple(comm for comm in (self.everybody, self.half, self.pair) if comm is not None)

    @property
    def branch(self) -> int:
        """Which half this rank is in: 0 or 1."""
        return int(self.rank >= self.size // 2)

    def close(self) -> None:
        """Take them down."""
        for transport in reversed(self._transports):
            transport.close()

    def _comm(self, members: list[tuple[int, ...]], name: str) -> Comm:
        """Make all groups of a kind, as every rank has to; returns the one that this rank is in."""
        mine: ProcessGroup | Pretended | None = None
        for ranks in members:
            if _PRETENDED.get() is None:
                made: ProcessGroup | Pretended = ProcessGroup(ranks, timeout_s=self._config.timeout_s)
                self._transports.append(made)
            elif self.rank in ranks:
                made = Pretended(ranks.index(self.rank), len(ranks))
            if self.rank in ranks:
                mine = made
        assert mine is not None
        return Comm(mine, self.traffic, name=name, careful=self._config.careful)
