"""Runs the contenders of one arena: first what each makes and really does, then the clock, in shuffled rounds.

Everything is kept as soon as it is known. A process that was stopped goes on where it was.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from dit_accel.evaluation.compare.timing import time_once
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.families.pipeline import find_denoisers
from rivals.arena import Arena
from rivals.base import Rival, Setting, Task
from rivals.store import Store
from rivals.work import Stopwatch, Tally, WorkCounter

PLAIN = "plain"
FEWER = "plain, fewer steps"
LEAST_STEPS = 5
MIN_ROUNDS = 3
GPU_RTOL = 1e-2  # kernels chosen by the clock add up in other orders; on a CPU runs are equal bit for bit

Timer = Callable[[Callable[[], object], Sequence[torch.nn.Module]], tuple[float, float]]


@dataclass(slots=True, kw_only=True)
class Limits:
    """How much to measure.

    Attributes:
        rounds: Timed runs of each contender.
        deadline: Moment of ``clock`` after which no contender and no round beyond the third is begun; ``None``: none.
        quick: Only what authors advise, and every other setting of the sweeps.
    """

    rounds: int = 10
    deadline: float | None = None
    quick: bool = False
    clock: Callable[[], float] = time.monotonic

    @property
    def over(self) -> bool:
        return self.deadline is not None and self.clock() > self.deadline


@dataclass(slots=True, kw_only=True)
class Entry:
    """A contender; ``rival`` is ``None`` for the plain pipeline."""

    setting: Setting
    rival: Rival | None = None


@dataclass(slots=True)
class Measurement:
    """One arena.

    Attributes:
        arena: Where.
        rivals: Who.
        store: What is known already.
        limits: How much.
        say: Told of progress, one line each.
        timer: Seconds of a run and of the denoisers in it.
        dropped: Settings that a quick run leaves out, for the notes.
    """

    arena: Arena
    rivals: Sequence[Rival]
    store: Store
    limits: Limits
    say: Callable[[str], None] = lambda line: None
    timer: Timer = field(default=lambda run, denoisers: _seconds(run, denoisers))
    dropped: int = 0

    def run(self) -> list[Entry]:
        """Measure what is not known yet; returns everyone who took part."""
        task = Task(
            num_inference_steps=self.arena.num_inference_steps,
            calibrate=self.arena.calibrate,
            memory=self.store.memory,
        )
        entries = self.entries(task)
        plain_s = self._plain()
        todo = [entry for entry in entries if self.store.outcome(entry.setting.name) is None]
        started = self.limits.clock()
        for done, entry in enumerate(todo):
            if self.limits.over:
                self._absent(entry, "not measured", "the time allowed was over", keep=False)
                continue
            spent = self.limits.clock() - started
            left = spent / done * (len(todo) - done) if done else plain_s * 0.7 * len(todo)
            self.say(
                f"{self.arena.label}: contender {done + 1} of {len(todo)}, {entry.setting.name}; {_span(left)} left"
            )
            self._show(entry, task)
        self._rounds([entry for entry in entries if self._can_run(entry)], task)
        return entries

    def entries(self, task: Task) -> list[Entry]:
        """Everyone who takes part; who cannot is noted in the store."""
        steps = self.arena.num_inference_steps
        counts = fewer_steps(steps)
        entries = [
            Entry(setting=Setting(name=f"{count} steps", rival=FEWER, num_inference_steps=count))
            for count in (counts[::2] if self.limits.quick else counts)
        ]
        for rival in self.rivals:
            reason = rival.supports(self.arena.pipe)
            if reason is not None:
                status = "not installed" if reason.endswith("not installed") else "no adapter"
                absent = {"rival": rival.name, "status": status, "reason": reason}
                self.store.put_outcome(rival.name, {"absent": absent})
                continue
            settings = rival.settings(self.arena.pipe, task)
            chosen = _thinned(settings) if self.limits.quick else settings
            self.dropped += len(settings) - len(chosen)
            entries += [Entry(setting=setting, rival=rival) for setting in chosen]
        return entries

    def _plain(self) -> float:
        """Make the reference; returns the seconds it takes, roughly."""
        known = self.store.outcome(PLAIN)
        if known is not None and self.store.reference() is not None:
            return float(known["seconds"])
        self.say(f"{self.arena.label}: plain, {len(self.arena.samples)} samples")
        started = time.perf_counter()
        made, tally = self._make(None)
        seconds = time.perf_counter() - started
        self.store.put_reference(made)
        self.store.put_outcome(PLAIN, {"work": [dict(tally.calls), tally.macs], "seconds": seconds})
        return seconds

    def _show(self, entry: Entry, task: Task) -> None:
        """Let a contender make all samples; keep how close they are and what it computed."""
        name, setting = entry.setting.name, entry.setting
        try:
            if entry.rival is not None:
                before = set(task.memory)
                entry.rival.prepare(self.arena.pipe, task)
                if set(task.memory) != before:
                    self.store.put_memory()
            with self._applied(entry, task):
                made, tally = self._make(setting.num_inference_steps)
        except Exception as error:  # whatever a rival raises is its result
            self._absent(entry, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            self._check_removed(name)
            return
        self._check_removed(name)
        outcome: dict[str, Any] = {"work": [dict(tally.calls), tally.macs]}
        if self.arena.has_pictures:
            if not torch.isfinite(made).all():
                self._absent(entry, "failed", "what it made is not finite (NaN or infinity)")
                return
            reference = self.store.reference()
            assert reference is not None
            scores = fidelity(made, reference, perceptual=available_perceptual())
            names = ("psnr_db", "ssim", "lpips", "st_lpips", "temporal_error", "flicker_ratio")
            outcome["scores"] = {
                key: None if (values := getattr(scores, key)) is None else [round(value, 5) for value in values]
                for key in names
            }
        self.store.put_outcome(name, outcome)

    def _rounds(self, entries: Sequence[Entry], task: Task) -> None:
        """Time all contenders once a round, each round in an order of its own."""
        everyone = [Entry(setting=Setting(name=PLAIN, rival=PLAIN)), *entries]
        by_name = {entry.setting.name: entry for entry in everyone}
        for number in range(len(self.store.rounds()), self.limits.rounds):
            if self.limits.over and number >= MIN_ROUNDS:
                break
            started = self.limits.clock()
            order = random.Random(number).sample(list(by_name), len(by_name))
            seconds = {name: self._time(by_name[name], task) for name in order}
            self.store.add_round(seconds)
            left = (self.limits.clock() - started) * (self.limits.rounds - number - 1)
            self.say(f"{self.arena.label}: round {number + 1} of {self.limits.rounds}; {_span(left)} left")

    def _time(self, entry: Entry, task: Task) -> tuple[float, float]:
        denoisers = [module for _, module in find_denoisers(self.arena.pipe)]
        steps = entry.setting.num_inference_steps
        with self._applied(entry, task):
            self.arena.make(0, 1, steps)  # what is set up in the first run after applying is not timed
            return self.timer(lambda: self.arena.make(0, self.arena.num_timed, steps), denoisers)

    def _make(self, steps: int | None) -> tuple[torch.Tensor, Tally]:
        denoisers = [module for _, module in find_denoisers(self.arena.pipe)]
        size, count = self.arena.batch_size, len(self.arena.samples)
        with WorkCounter(denoisers) as work:
            made = [self.arena.make(first, min(first + size, count), steps) for first in range(0, count, size)]
        return torch.cat(made), work.tally

    def _applied(self, entry: Entry, task: Task) -> AbstractContextManager[None]:
        return nullcontext() if entry.rival is None else entry.rival.applied(self.arena.pipe, entry.setting, task)

    def _check_removed(self, name: str) -> None:
        """The plain pipeline must be what it was, or every later number would be wrong.

        Raises:
            RuntimeError: It is not.
        """
        reference = self.store.reference()
        assert reference is not None
        count = min(self.arena.batch_size, len(self.arena.samples))
        again = self.arena.make(0, count)
        on_cpu = next(find_denoisers(self.arena.pipe)[0][1].parameters()).device.type == "cpu"
        rtol = 0.0 if on_cpu else GPU_RTOL
        if not torch.allclose(again, reference[:count], rtol=rtol, atol=rtol, equal_nan=True):
            raise RuntimeError(f"after '{name}' was removed the plain pipeline makes something else")

    def _absent(self, entry: Entry, status: str, reason: str, *, keep: bool = True) -> None:
        absent = {"rival": entry.setting.rival, "status": status, "reason": reason}
        self.say(f"{self.arena.label}: {entry.setting.name} {status}: {reason}")
        if keep:
            self.store.put_outcome(entry.setting.name, {"absent": absent})

    def _can_run(self, entry: Entry) -> bool:
        outcome = self.store.outcome(entry.setting.name)
        return outcome is not None and "absent" not in outcome


def fewer_steps(steps: int) -> list[int]:
    """Numbers of steps from 5 to one less than ``steps``, each up to 12, then with wider gaps."""
    counts = {*range(LEAST_STEPS, 13), 14, 16, 18, 20, 22, 24, *range(28, 200, 4)}
    return sorted(count for count in counts if count < steps)


def _thinned(settings: Sequence[Setting]) -> list[Setting]:
    return [setting for index, setting in enumerate(settings) if setting.advised or index % 2]


def _seconds(run: Callable[[], object], denoisers: Sequence[torch.nn.Module]) -> tuple[float, float]:
    with Stopwatch(denoisers) as watch:
        whole = time_once(run)
    return whole, watch.seconds


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
