"""Runs the variants of a comparison on one pipeline, each with its plan applied while it runs and only then."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from dit_accel.api import PlanLike, accelerated, summary
from dit_accel.evaluation.compare.cost import DenoiserMeter
from dit_accel.evaluation.compare.timing import time_interleaved
from dit_accel.families.pipeline import find_denoisers
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.session.session import session_of

if TYPE_CHECKING:
    from dit_accel.plan.plan import AccelerationPlan
    from dit_accel.session.summary import Summary


@dataclass(slots=True, kw_only=True)
class BenchEntry:
    """One variant while it is being measured.

    Attributes:
        name: Unique in the comparison.
        settings: Of its runs.
        plan: ``None``: plain.
        rival_of: The plan whose time its step count was chosen to meet.
        images: What its last run made.
        resolved: The plan as it was applied.
        seen: What its last run did.
        denoiser_s: Seconds in the denoisers, a metered run each.
    """

    name: str
    settings: GenerationSettings
    plan: PlanLike | None = None
    rival_of: str | None = None
    images: Any = None
    resolved: "AccelerationPlan | None" = None
    seen: "Summary | None" = None
    denoiser_s: list[float] = field(default_factory=list)


class Bench:
    """Times entries on one pipeline."""

    def __init__(self, pipe: Any, samples: Sequence[tuple[str, int]], *, batch_size: int | None, strict: bool) -> None:
        self.pipe = pipe
        self.prompts = [prompt for prompt, _ in samples]
        self.seeds = [seed for _, seed in samples]
        self.batch_size = batch_size
        self.strict = strict

    def time(self, entries: Sequence[BenchEntry], *, repeats: int, warmup: int) -> dict[str, list[float]]:
        """Seconds of each entry; each keeps the images of its last run."""
        plans = {entry.name: entry.plan for entry in entries}
        runs = {entry.name: partial(self._run, entry) for entry in entries}
        return time_interleaved(runs, repeats=repeats, warmup=warmup, around=lambda name: self._with(plans[name]))

    def time_denoiser(self, entries: Sequence[BenchEntry], *, repeats: int) -> None:
        """Seconds that each entry spends in the denoisers, kept in the entry."""
        plans = {entry.name: entry.plan for entry in entries}
        runs = {entry.name: partial(self._run_metered, entry) for entry in entries}
        time_interleaved(runs, repeats=repeats, warmup=0, around=lambda name: self._with(plans[name]))

    def _run_metered(self, entry: BenchEntry) -> None:
        with ExitStack() as stack:
            meters = [stack.enter_context(DenoiserMeter(module)) for _, module in find_denoisers(self.pipe)]
            self._run(entry)
        entry.denoiser_s.append(sum(meter.seconds for meter in meters))

    def _run(self, entry: BenchEntry) -> None:
        entry.images = generate(self.pipe, self.prompts, self.seeds, entry.settings, batch_size=self.batch_size)
        session = session_of(self.pipe)
        if session is not None:
            entry.seen, entry.resolved = summary(self.pipe), session.plan

    def _with(self, plan: PlanLike | None) -> AbstractContextManager[object]:
        return nullcontext() if plan is None else accelerated(self.pipe, plan, strict=self.strict)
