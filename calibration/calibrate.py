"""Finds trajectory plans for a pipeline: record, measure gains, choose steps, fit, judge, evolve.

A calibration has a folder. Every judgement is on disk as soon as it is made, and so is the plan, if no other one beats
it; stopped and called again it draws its recording anew, takes the judgements that are there, and goes on as if it had
not been stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dit_accel.calibration.beginnings import first_choices, told, trajectory_of
from dit_accel.calibration.books import Books, Steps
from dit_accel.calibration.calls import cost_of
from dit_accel.calibration.choose import Gaps, gram_of
from dit_accel.calibration.cohorts import in_cohorts
from dit_accel.calibration.evolve import evolve
from dit_accel.calibration.finishing import Finisher
from dit_accel.calibration.fit import first_of_each
from dit_accel.calibration.front import Point, front_of
from dit_accel.calibration.gains import measure_gains
from dit_accel.calibration.guidance import own_scale
from dit_accel.calibration.judging import SEED as SEED
from dit_accel.calibration.judging import Judge
from dit_accel.calibration.kept_recording import recorded
from dit_accel.calibration.pace import Pace
from dit_accel.calibration.recording import Recording, record
from dit_accel.calibration.shelf import tidy
from dit_accel.calibration.spread import Errand, Spread, here
from dit_accel.calibration.subject import check_steps, subject_of
from dit_accel.errors import ConfigError
from dit_accel.pipelines.generation import GenerationSettings
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.runtime.observe import warn_user

GAIN_PROMPTS = 4
FIRST_SPEEDUP = 2.0  # of the plan that is judged first: what most people want, at once
RECORDING = "recording"  # folder of the plain run, in the calibration's

OnProgress = Callable[[str, float, "Calibration"], None]
"""Told what is done (``"record"``, ``"gains"``, ``"judge"``, ``"generation"``, ``"guard"``), the seconds that are
left, by what judging has taken so far (infinite: not known yet), and the calibration."""


@dataclass(slots=True)
class Calibration:
    """What is known so far.

    Attributes:
        points: Everything that was judged, in the order of the search.
        skipped: What could not be judged, and why.
        generations: How many generations the search has gone through.
        hypervolume: Of all points, if it was computed.
        num_steps: T.
    """

    num_steps: int = 0
    points: list[Point] = field(default_factory=list)
    skipped: dict[Steps, str] = field(default_factory=dict)
    generations: int = 0
    hypervolume: float | None = None
    _plan: Callable[[Point], AccelerationPlan] | None = None
    _finished: Callable[[Point], AccelerationPlan] | None = None

    def take(self, books: Books) -> None:
        """Take over what the books hold."""
        self.points, self.skipped = list(books.points.values()), dict(books.skipped)

    @property
    def front(self) -> tuple[Point, ...]:
        """What no other point beats."""
        return front_of(self.points)

    def plan(self, point: Point) -> AccelerationPlan:
        """The plan of a point; one that is neither at hand nor on disk is fitted anew, by one run of the pipeline."""
        assert self._plan is not None
        return self._plan(point)

    def finished(self, point: Point) -> AccelerationPlan:
        """The same with all that plans of the front have, off it too: swept, with a guard and further guidance."""
        assert self._finished is not None
        return self._finished(point)


def calibrate(
    pipe: Any,
    folder: str | Path,
    *,
    model: str,
    settings: GenerationSettings | None = None,
    prompts: Sequence[str] | None = None,
    num_prompts: int | None = None,
    budget_s: float = 1200.0,
    generations: int | None = None,
    seed: int = 0,
    guidance_values: Sequence[float] = (),
    branches: bool = False,
    half_calls: bool = False,
    tail: float = 0.0,
    sweeps: int = 0,
    cohort: int | None = None,
    plans: Sequence[AccelerationPlan] = (),
    on_progress: OnProgress | None = None,
    spread: Spread = here,
) -> Calibration:
    """Search trajectory plans of all speeds for a pipeline, as it is set up now.

    Args:
        pipe: A text-to-image or text-to-video pipeline; left as it was.
        folder: Keeps what was judged; a folder of the same calibration is gone on with.
        model: What the pipeline was loaded from.
        settings: Of the runs to accelerate; ``None``: the pipeline's own.
        prompts: To search with; ``None``: the list ``search`` that ships.
        num_prompts: How many of them, all drawn in one pipeline call; ``None``: 32 images or 12 videos.
        budget_s: Seconds; the surrogate's plans are judged whatever it says.
        generations: End after so many generations of the evolutionary search instead.
        seed: Of the search.
        guidance_values: Further guidance scales to fit the weights of plans to; between them they are interpolated.
        branches: Fit weights of its own to each guidance branch: closer wherever there are two, and no scheduler form.
        half_calls: Also try calls of which the conditional branch alone is computed; takes ``branches``.
        tail: How much more difficult prompts count in every fit; see :mod:`.emphasis`. Triples what judging costs.
        sweeps: How often the answers of the front's plans are refitted at last for the end of the run; see
            :mod:`.sweeps`.
        cohort: Rows of a batch that the denoiser sees at a time, where all are too much for its memory; see
            :mod:`.cohorts`.
        plans: Begin also with the evaluations that these compute: the search then never ends below any of them, fitted
            to the same prompts.
        on_progress: Told of every judgement.
        spread: Where candidates are judged: in this process, or on many, with the same results; see :mod:`.spread`.

    Returns:
        The points; ``calibration.plan(point)`` makes a plan of one.

    Raises:
        ConfigError: The folder holds something else, the pipeline cannot be run, a plan has no trajectory, a run has
            one step, there is no guidance scale to go on from, or a number is none that there can be.
        UnsupportedModelError: Its scheduler is random at every step, or not linear in the output.
    """
    pace = Pace(budget_s, generations)
    check_steps(pipe, settings)
    subject = subject_of(pipe, model, settings, prompts, num_prompts)
    for plan in plans:
        if trajectory_of(plan).unconditional is not None and not branches:
            warn_user(
                f"the weights of plan '{plan.name}' are apart for each guidance branch, and this calibration fits "
                "shared ones: its calls may seem worth less than they are. Ask for 'branches' (--branches)"
            )
    if sweeps < 0 or not 0 <= tail < float("inf"):
        raise ConfigError(f"'sweeps' and 'tail' must be numbers from 0, got {sweeps!r} and {tail!r}")
    if half_calls and (not branches or guidance_values):
        raise ConfigError("half calls take weights of each guidance branch ('branches'), and one guidance scale")
    folder = Path(folder)
    identity = subject.identity(
        seed=seed,
        branches=branches,
        half_calls=half_calls,
        tail=tail or None,
        sweeps=sweeps or None,
        cohort=cohort,
        plans=sorted(map(told, plans)),
    )
    books = Books(folder, identity)
    calibration = Calibration()
    draw = subject.draw_at()

    def tell(what: str) -> None:
        if on_progress is not None:
            on_progress(what, pace.left_s(calibration.generations), calibration)

    def run_plain(recording: Recording) -> None:
        with in_cohorts(pipe, cohort):
            record(pipe, draw, 0, subject.count, recording)
        if not torch.isfinite(recording.pictures).all():
            raise ConfigError(
                "the plain pipeline's own pictures are not finite (NaN or infinity): nothing can be compared with "
                "them. Try another dtype"
            )

    reference = recorded(folder / RECORDING, subject.setup, run_plain, gram_of, outputs=books.gains is None)
    calibration.num_steps = reference.num_steps
    if guidance_values:
        own_scale(reference.conditions.guidance_scale, guidance_values)
    tell("record")
    if books.gains is None:
        with in_cohorts(pipe, cohort):
            books.gains = measure_gains(pipe, draw, reference, min(GAIN_PROMPTS, subject.count))
        books.write()
    tell("gains")
    gaps = Gaps(reference.gram, books.gains, first_of_each(reference.denoisers) - {0})
    reference.forget_outputs()
    judge = Judge(pipe, draw, reference, branches=branches, tail=tail, cohort=cohort)
    finisher = Finisher(subject, judge, folder, guidance_values, sweeps)

    def judge_all(batch: Sequence[Steps]) -> list[Point | None]:
        books.ask(batch)
        unknown = [steps for steps in batch if steps not in books.points and steps not in books.skipped]
        pace.expect(len(unknown))
        for verdict in spread_out(sorted(unknown, key=lambda each: each != first)) if unknown else ():
            pace.judged()
            if verdict.point is None or verdict.config is None:
                books.skip(verdict.computed, verdict.why)
            else:
                finisher.configs[verdict.computed] = verdict.config
                books.judge(verdict.point)
            calibration.take(books)
            if verdict.point in calibration.front:
                finisher.shelve(verdict.point)
            tell("judge")
        return [books.points.get(steps) for steps in batch]

    calibration._plan, calibration._finished = finisher.plan, finisher.finished
    seeds = first_choices(gaps, plans, half_calls=half_calls)
    first = min(seeds, key=lambda steps: abs(gaps.steps / cost_of(steps) - FIRST_SPEEDUP))
    calibration.take(books)
    errand = Errand(
        prompts=subject.prompts,
        settings=subject.settings,
        recording=folder / RECORDING,
        branches=branches,
        tail=tail,
        cohort=cohort,
    )
    with spread(errand, judge) as spread_out:
        search = evolve(
            seeds,
            judge_all,
            gaps,
            seed=seed,
            standing=books.standing,
            tried=books.tried(),
            half_calls=half_calls,
        )
        for generation in search:
            if not books.points:
                raise _nothing_judged(books)
            books.stand(generation.number, [point.computed for point in generation.population], generation.rng)
            calibration.take(books)
            calibration.generations = generation.number
            calibration.hypervolume = generation.hypervolume
            tell("generation")
            if generation.number >= generations if generations is not None else pace.is_over:
                break
    for point in calibration.front:
        if finisher.finish(point):
            tell("guard")
    finisher.configs.clear()  # from here on the folders are what there is
    tidy(folder, calibration.front)
    return calibration


def _nothing_judged(books: Books) -> ConfigError:
    """Every candidate was skipped: that is no fault of theirs, and the next call is to try them again."""
    count, why = len(books.skipped), next(iter(books.skipped.values()))
    books.skipped.clear()
    books.write()
    return ConfigError(
        f"none of the {count} candidates could be judged; the first because {why}. Nothing is kept of that: the same "
        "command tries them again"
    )
