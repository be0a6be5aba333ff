"""Draws what is missing, chunk by chunk, plain or accelerated."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from dit_accel.api import accelerated, summary
from dit_accel.evaluation.compare.compare import conditions_of, effects_of
from dit_accel.evaluation.reports.records import Record
from dit_accel.evaluation.reports.report import Effects
from dit_accel.evaluation.suites.job import ImageSource, SuiteJob
from dit_accel.evaluation.suites.prompt_files import Item
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.plan import AccelerationPlan

DRAWN = "drawn"


class Drawn(Record):
    """What was found out while a chunk was drawn.

    Attributes:
        effects: What the passes did; ``None`` without a plan.
        conditions: What could be told of the run.
    """

    effects: Effects | None = None
    conditions: Conditions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Painter:
    """Draws the pictures of one variant.

    Attributes:
        job: The evaluation's folder.
        pipe: The plain pipeline.
        source: Where pictures go.
        plan: ``None``: plain.
        settings: Of the run.
        chunks: All items, batch by batch.
    """

    job: SuiteJob
    pipe: Any
    source: ImageSource
    plan: AccelerationPlan | None
    settings: GenerationSettings
    chunks: Sequence[Sequence[Item]]

    def draw(self, numbers: Sequence[int], did: Callable[[], None]) -> None:
        """Draw those of the chunks that are not there yet; ``did`` is called after each."""
        todo = [number for number in numbers if not self._is_there(number)]
        for _ in range(len(numbers) - len(todo)):
            did()
        with self._applied() if todo else nullcontext():
            for number in todo:
                self._draw(number)
                did()

    def repair(self, number: int) -> list[str]:
        """Draw a chunk again of which something cannot be read; returns the names of what could not."""
        broken = [item.name for item in self.chunks[number] if self.source.fault(item)]
        if broken:
            with self._applied():
                self._draw(number)
        return broken

    def drawn(self, number: int) -> Drawn:
        """What was kept of a chunk's run."""
        return Drawn.model_validate(self.job.note(self.source.name, DRAWN, number) or {})

    def _draw(self, number: int) -> None:
        items = self.chunks[number]
        made = generate(self.pipe, [item.prompt for item in items], [item.seed for item in items], self.settings)
        seen = None if self.plan is None else summary(self.pipe)
        kept = Drawn() if seen is None else Drawn(effects=effects_of(seen), conditions=conditions_of(seen))
        for item, sample in zip(items, made, strict=True):
            self.source.write(item, sample)
        self.job.keep_note(self.source.name, DRAWN, number, kept.model_dump(mode="json"))

    def _is_there(self, number: int) -> bool:
        known = self.job.note(self.source.name, DRAWN, number) is not None
        return known and all(self.source.is_there(item) for item in self.chunks[number])

    def _applied(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.plan is None else accelerated(self.pipe, self.plan)
