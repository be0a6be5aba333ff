"""``--parallel``: the ranks of a torchrun or accelerate job draw together; the first of them speaks and writes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit_accel.cli.output import Output
from dit_accel.errors import CommunicationError, ConfigError, DitAccelError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from dit_accel.plan.plan import AccelerationPlan

Parallel = Annotated[
    int,
    typer.Option(
        "--parallel",
        min=1,
        metavar="RANKS",
        help="Let so many ranks draw each picture together: torchrun --nproc-per-node RANKS -m dit_accel generate "
        "... --parallel RANKS. What to use: dit-accel parallel-plan.",
    ),
]
ParallelMode = Annotated[
    str,
    typer.Option(
        metavar="sync|stale|partial",
        help="sync: exact. stale: with the other ranks' values of the step before. partial: of the neighbours' "
        "nearest rows only. Guidance is split first, which is exact in all of them.",
    ),
]
ParallelWarmup = Annotated[int, typer.Option(min=1, help="Steps that wait for fresh values, in stale and partial.")]
ParallelTimeout = Annotated[float, typer.Option(min=0.1, help="Seconds after which a silent rank ends the run.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What the options ask for.

    Attributes:
        ranks: How many; 1: nothing is shared, and nothing changes.
        mode: See :class:`~dit_accel.passes.patch_parallel.config.PatchParallelConfig`.
        warmup: The same.
        timeout_s: The same.
    """

    ranks: int
    mode: str
    warmup: int
    timeout_s: float

    def check(self, *, compare: bool) -> None:
        """Say what can be said before anything is loaded.

        Raises:
            ConfigError: A value is not valid, or the options exclude each other.
        """
        self._config()
        if compare and self.ranks > 1:
            raise ConfigError(
                "--compare measures times in this process, so it does not go with --parallel: draw with and without, "
                "or see docs/parallel.md for what was measured"
            )

    @contextmanager
    def joined(self, device: str) -> Iterator[int]:
        """Join the job; yields the rank, 0 without one.

        An error that all ranks meet is said by one of them: the first to come.

        Raises:
            ConfigError: No such job was started.
            CommunicationError: The ranks do not find each other.
        """
        if self.ranks == 1:
            yield 0
            return
        from dit_accel.passes.patch_parallel.launch import is_first_to_say, joined

        with joined(self.ranks, device=device, timeout_s=self.timeout_s) as rank:
            try:
                yield rank
            except DitAccelError as error:
                # All ranks meet an error in the input; one that is gone is missed by whoever is left.
                says = is_first_to_say() if isinstance(error, CommunicationError) else rank == 0
                if says:
                    raise
                raise typer.Exit(2) from error

    def output(self, target: Output, rank: int) -> Output:
        """Where this rank writes: only the first one does."""
        return target if rank == 0 else _Nowhere(path=target.path)

    def plan(self, chosen: "str | Path | AccelerationPlan | None", pipe: Any) -> "AccelerationPlan":
        """The plan, shared among the ranks. It is another one, so no certificate covers it.

        Raises:
            ConfigError: There is no such plan.
        """
        from dit_accel.api import resolve_plan
        from dit_accel.families.targets import find_targets
        from dit_accel.plan.plan import AccelerationPlan

        if chosen is None:
            return AccelerationPlan(name=f"{self.ranks} ranks", passes=(self._config(),))
        plan = resolve_plan(chosen, find_targets(pipe))
        note = f"shared among {self.ranks} ranks ({self.mode}), which no certificate covers"
        return replace(
            plan,
            name=f"{plan.name}, {self.ranks} ranks",
            passes=(*plan.passes, self._config()),
            certificate=None,
            notes=(*plan.notes, note),
        )

    def traffic(self, pipe: Any) -> dict[str, int]:
        """Bytes that this rank sent in the last run, by phase."""
        from dit_accel.passes.patch_parallel.apply import parallel_of
        from dit_accel.session.session import session_of

        session = session_of(pipe)
        sums: dict[str, int] = {}
        for runtime in session.runtimes if session is not None else ():
            parallel = parallel_of(runtime)
            for phase, count in parallel.groups.traffic.by("phase").items() if parallel is not None else ():
                sums[str(phase)] = sums.get(str(phase), 0) + count.sent
        return sums

    def _config(self) -> Any:
        from dit_accel.passes.patch_parallel.config import PatchParallelConfig

        mode: Any = self.mode
        return PatchParallelConfig(mode=mode, warmup=self.warmup, timeout_s=self.timeout_s)


class _Nowhere(Output):
    """Writes nothing."""

    def save(
        self, pipe: Any, made: "torch.Tensor", samples: Sequence[tuple[str, int]], *, suffix: str = ""
    ) -> list[str]:
        return []


def traffic_words(sent: dict[str, int]) -> str:
    """One line for people."""
    total = sum(sent.values())
    parts = ", ".join(f"{phase} {_size(count)}" for phase, count in sorted(sent.items(), key=lambda item: -item[1]))
    return f"rank 0 sent {_size(total)} for the last picture: {parts}"


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
