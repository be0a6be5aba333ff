"""One map over the candidates of a generation, wherever they are judged: the results are the same.

Who is judged is settled before, each candidate is judged by itself from the same recording with the same number of
threads, and the books keep the order of asking. So the number of hands changes the time and nothing else. Workers do
not draw a recording of their own: they map the leader's files, which costs no run, no memory, and no difference where
a GPU's sums are not the same twice. On several machines the calibration's folder lies on a disk that all of them see.

A hand is whatever judges one candidate at a time: a process (:mod:`.processes`), an actor of Ray (:mod:`.on_ray`). One
that dies is replaced, and its candidate is judged again.

What a candidate is and who judges it is the errand's: sets of steps here, calls and sites in :mod:`.sites_errand`.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dit_accel.calibration.books import Steps
from dit_accel.calibration.judging import Judge, Verdict, drawing
from dit_accel.calibration.kept_recording import load
from dit_accel.calibration.recording import Recording
from dit_accel.errors import DitAccelError
from dit_accel.pipelines.generation import GenerationSettings

ATTEMPTS = 3  # at one candidate, before it is taken to be what kills hands

Task = Any
"""A candidate; hashable, and can be pickled."""

Map = Callable[[Sequence[Task]], Iterator[Any]]
"""Judges candidates; gives verdicts as they come, in any order."""


class Answer(Protocol):
    """A verdict."""

    def to_plain(self) -> dict[str, Any]:
        """JSON data: what travels between processes."""


class AnyErrand(Protocol):
    """What a hand has to know beside its pipeline, and how its verdicts travel."""

    def judge_on(self, pipe: Any) -> Callable[[Task], Answer]:
        """The judge of another process."""

    def read(self, data: dict[str, Any]) -> Answer:
        """What :meth:`Answer.to_plain` wrote."""

    def lost(self, task: Task, why: str) -> Answer:
        """The verdict on a candidate over which hands die."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """Of the search over sets of steps.

    Attributes:
        prompts: All search prompts.
        settings: Of the runs.
        recording: Folder of the recorded run.
        branches: Whether each guidance branch gets weights of its own.
        tail: How much more difficult prompts count in a fit.
        cohort: Rows of a batch that the denoiser sees at a time; ``None``: all.
    """

    prompts: tuple[str, ...]
    settings: GenerationSettings
    recording: Path
    branches: bool = False
    tail: float = 0.0
    cohort: int | None = None

    def judge_on(self, pipe: Any) -> Judge:
        """The judge of another process.

        Raises:
            DitAccelError: The recording cannot be read there.
        """
        reference = recording_at(self.recording)
        draw = drawing(pipe, self.prompts, self.settings)
        return Judge(pipe, draw, reference, branches=self.branches, tail=self.tail, cohort=self.cohort)

    def read(self, data: dict[str, Any]) -> Verdict:
        """Read a verdict."""
        return Verdict.from_plain(data)

    def lost(self, task: Steps, why: str) -> Verdict:
        """It is skipped."""
        return Verdict(computed=task, why=why)


def recording_at(folder: Path) -> Recording:
    """The leader's recording.

    Raises:
        DitAccelError: It cannot be read here.
    """
    reference = load(folder)
    if reference is None:
        raise DitAccelError(
            f"a worker finds no recording at '{folder}': the calibration's folder must lie on a disk that "
            "all machines see"
        )
    return reference


Spread = Callable[[AnyErrand, Callable[[Task], Answer]], AbstractContextManager[Map]]
"""Opens a map for a calibration whose recording is made; the judge is the leader's own."""


@contextmanager
def here(errand: AnyErrand, judge: Callable[[Task], Answer]) -> Iterator[Map]:
    """Judge in this process, one after another."""

    def judge_each(batch: Sequence[Task]) -> Iterator[Answer]:
        return map(judge, batch)

    yield judge_each


class HandLostError(DitAccelError):
    """A hand has died."""


class Hand(Protocol):
    """Judges one candidate at a time, elsewhere."""

    def give(self, task: Task) -> None:
        """Let it begin.

        Raises:
            HandLostError: It is dead.
        """

    def take(self) -> Answer:
        """What it has found; it was said to be ready.

        Raises:
            HandLostError: It has died over it.
        """

    def dismiss(self) -> None:
        """End it, whatever it does."""


class Crew:
    """Hands that are hired when there is work, and replaced when they are lost.

    Args:
        hire: Starts one.
        ready: Waits until at least one of those that it is given has finished or died; returns which.
        count: How many at once.
        lost: The verdict on a candidate over which hands die.
    """

    def __init__(
        self,
        hire: Callable[[], Hand],
        ready: Callable[[Sequence[Any]], Sequence[Any]],
        count: int,
        lost: Callable[[Task, str], Answer],
    ) -> None:
        self._hire, self._ready, self._count, self._lost = hire, ready, count, lost
        self._idle: list[Hand] = []
        self._busy: dict[Hand, Task] = {}

    def map(self, batch: Sequence[Task]) -> Iterator[Answer]:
        """Judge a batch; what is fatal to one candidate's hand three times is skipped."""
        waiting, lost = deque(batch), Counter[Task]()
        while waiting or self._busy:
            while waiting and len(self._busy) < self._count:
                hand = self._idle.pop() if self._idle else self._hire()
                self._busy[hand] = task = waiting.popleft()
                try:
                    hand.give(task)
                except HandLostError as error:
                    yield from self._lose(hand, error, waiting, lost)
            for hand in self._ready(list(self._busy)) if self._busy else ():
                try:
                    verdict = hand.take()
                except HandLostError as error:
                    yield from self._lose(hand, error, waiting, lost)
                else:
                    del self._busy[hand]
                    self._idle.append(hand)
                    yield verdict

    def dismiss(self) -> None:
        """End all of them."""
        for hand in (*self._idle, *self._busy):
            hand.dismiss()
        self._idle.clear()
        self._busy.clear()

    def _lose(self, hand: Hand, error: HandLostError, waiting: deque[Task], lost: Counter[Task]) -> Iterator[Answer]:
        task = self._busy.pop(hand)
        hand.dismiss()
        lost[task] += 1
        if lost[task] < ATTEMPTS:
            waiting.appendleft(task)
        else:
            yield self._lost(task, f"{ATTEMPTS} processes died over it; the last one: {error}")


@contextmanager
def crew_of(
    hire: Callable[[], Hand],
    ready: Callable[[Sequence[Any]], Sequence[Any]],
    count: int,
    lost: Callable[[Task, str], Answer],
) -> Iterator[Map]:
    """A map by a crew, which is dismissed at the end, be it an error."""
    crew = Crew(hire, ready, count, lost)
    try:
        yield crew.map
    finally:
        crew.dismiss()
