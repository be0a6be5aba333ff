"""Finds trajectory plans for a pipeline: record, measure gains, choose steps, fit, judge, evolve.

A calibration has a folder. Every judgement is on disk as soon as it is made, and so is the plan, if no other one beats
it; stopped and called again it draws its recording anew, takes the judgements that are there, and goes on as if it had
not been stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dit_accel.calibration.books import Books, Steps
from dit_accel.calibration.choose import Gaps, choose_steps, gram_of
from dit_accel.calibration.cohorts import in_cohorts
from dit_accel.calibration.evolve import evolve
from dit_accel.calibration.fit import first_of_each
from dit_accel.calibration.front import Point, front_of
from dit_accel.calibration.gains import measure_gains
from dit_accel.calibration.guard import with_guard
from dit_accel.calibration.guidance import over_guidance
from dit_accel.calibration.judging import SEED as SEED
from dit_accel.calibration.judging import Judge, drawing
from dit_accel.calibration.kept_recording import recorded
from dit_accel.calibration.pace import Pace
from dit_accel.calibration.recording import Draw, Recording, record
from dit_accel.calibration.shelf import place_of, plan_at, put, tidy
from dit_accel.calibration.spread import Errand, Spread, here
from dit_accel.errors import ConfigError
from dit_accel.families.targets import find_targets
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.pipelines.generation import GenerationSettings, makes_video
from dit_accel.plan.config import PassConfig
from dit_accel.plan.fingerprint import digest, fingerprint, scheduler_digest
from dit_accel.plan.plan import NOT_CERTIFIED, AccelerationPlan
from dit_accel.plan.weights import sample_weights
from dit_accel.prompts import load_prompts
from dit_accel.schedules.theory import typical_steps

NUM_IMAGES, NUM_VIDEOS = 32, 12
GAIN_PROMPTS = 4
FIRST_SPEEDUP = 2.0  # of the plan that is judged first: what most people want, at once
RECORDING = "recording"  # folder of the plain run, in the calibration's
CALIBRATED_NOTE = f"calibrated on search prompts, {NOT_CERTIFIED}: `dit-accel certify` measures it on others"

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

    @property
    def front(self) -> tuple[Point, ...]:
        """What no other point beats."""
        return front_of(self.points)

    def plan(self, point: Point) -> AccelerationPlan:
        """The plan of a point; one that is neither at hand nor on disk is fitted anew, by one run of the pipeline."""
        assert self._plan is not None
        return self._plan(point)


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
    cohort: int | None = None,
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
        cohort: Rows of a batch that the denoiser sees at a time, where all are too much for its memory; see
            :mod:`.cohorts`.
        on_progress: Told of every judgement.
        spread: Where candidates are judged: in this process, or on many, with the same results; see :mod:`.spread`.

    Returns:
        The points; ``calibration.plan(point)`` makes a plan of one.

    Raises:
        ConfigError: The folder holds something else, or the pipeline cannot be run.
        UnsupportedModelError: Its scheduler is random at every step, or not linear in the output.
    """
    pace = Pace(budget_s, generations)
    chosen = settings or GenerationSettings()
    video = makes_video(pipe)
    listed = tuple(prompts or load_prompts("search", "video" if video else "image").prompts)
    count = min(num_prompts or (NUM_VIDEOS if video else NUM_IMAGES), len(listed))
    if count < 2:
        raise ConfigError("a fit takes at least two prompts")
    targets = find_targets(pipe)
    folder = Path(folder)
    weights = [sample_weights(target.denoiser) for target in targets]
    identity = {
        "model": model,
        "weights": [None if sample is None else digest(asdict(sample)) for sample in weights],
        "scheduler": scheduler_digest(pipe.scheduler),
        "settings": asdict(chosen),
        "prompts": digest(listed[:count]),
        "seed": seed,
        **({"branches": True} if branches else {}),
        **({} if cohort is None else {"cohort": cohort}),
    }
    books = Books(folder, identity)
    calibration = Calibration()
    draw = drawing(pipe, listed, chosen)

    def draw_at(scale: float) -> Draw:
        return drawing(pipe, listed, replace(chosen, guidance_scale=scale))

    def tell(what: str) -> None:
        if on_progress is not None:
            on_progress(what, pace.left_s(calibration.generations), calibration)

    def run_plain(recording: Recording) -> None:
        with in_cohorts(pipe, cohort):
            record(pipe, draw, 0, count, recording)
        if not torch.isfinite(recording.pictures).all():
            raise ConfigError(
                "the plain pipeline's own pictures are not finite (NaN or infinity): nothing can be compared with "
                "them. Try another dtype"
            )

    setup = {"device": [_kind(target.denoiser) for target in targets]}
    reference = recorded(folder / RECORDING, setup, run_plain, gram_of, outputs=books.gains is None)
    calibration.num_steps = reference.num_steps
    tell("record")
    if books.gains is None:
        with in_cohorts(pipe, cohort):
            books.gains = measure_gains(pipe, draw, reference, min(GAIN_PROMPTS, count))
        books.write()
    tell("gains")
    gaps = Gaps(reference.gram, books.gains, first_of_each(reference.denoisers) - {0})
    reference.forget_outputs()
    judge = Judge(pipe, draw, reference, branches=branches, cohort=cohort)
    configs: dict[Steps, PassConfig] = {}

    def plan(point: Point) -> AccelerationPlan:
        kept = None if point.computed in configs else plan_at(folder, point)
        if kept is not None:
            return kept
        config = configs.get(point.computed) or judge.fit(point.computed).config
        return AccelerationPlan(
            name=f"trajectory-{len(point.computed)}-of-{point.num_steps}",
            passes=(config,),
            fingerprints=tuple(fingerprint(target) for target in targets),
            conditions=reference.conditions,
            notes=(CALIBRATED_NOTE,),
        )

    def is_finished(found: AccelerationPlan) -> bool:
        (config,) = found.passes
        assert isinstance(config, TrajectoryConfig)
        return bool(config.guard) and set(guidance_values) <= set(config.guidance)

    def finished(found: AccelerationPlan) -> AccelerationPlan:
        """With its guard, and its weights for other guidance: runs that only what is left at the end is worth."""
        (config,) = found.passes
        assert isinstance(config, TrajectoryConfig)
        config, conditions = with_guard(pipe, draw, config, 0, count), reference.conditions
        if guidance_values:
            config = over_guidance(pipe, draw_at, config, conditions.guidance_scale, guidance_values, count)
            conditions = replace(conditions, guidance_scale=None)
        return replace(found, passes=(config,), conditions=conditions)

    def judge_all(batch: Sequence[Steps]) -> list[Point | None]:
        books.ask(batch)
        unknown = [steps for steps in batch if steps not in books.points and steps not in books.skipped]
        pace.expect(len(unknown))
        for verdict in spread_out(sorted(unknown, key=lambda each: each != first)) if unknown else ():
            pace.judged()
            if verdict.point is None or verdict.config is None:
                books.skip(verdict.computed, verdict.why)
            else:
                configs[verdict.computed] = verdict.config
                books.judge(verdict.point)
            show()
            if verdict.point in calibration.front:
                put(plan(verdict.point), place_of(folder, verdict.point))
            tell("judge")
        return [books.points.get(steps) for steps in batch]

    def show() -> None:
        calibration.points, calibration.skipped = list(books.points.values()), dict(books.skipped)

    calibration._plan = plan
    seeds = first_choices(gaps)
    first = min(seeds, key=lambda steps: abs(gaps.steps / len(steps) - FIRST_SPEEDUP))
    show()
    errand = Errand(
        prompts=listed[:count], settings=chosen, recording=folder / RECORDING, branches=branches, cohort=cohort
    )
    with spread(errand, judge) as spread_out:
        for generation in evolve(seeds, judge_all, gaps, seed=seed, standing=books.standing, tried=books.tried()):
            if not books.points:
                raise _nothing_judged(books)
            books.stand(generation.number, [point.computed for point in generation.population], generation.rng)
            show()
            calibration.generations = generation.number
            calibration.hypervolume = generation.hypervolume
            tell("generation")
            if generation.number >= generations if generations is not None else pace.is_over:
                break
    for point in calibration.front:
        kept = plan_at(folder, point)
        if kept is None or not is_finished(kept):
            plain = plan(point)
            with in_cohorts(pipe, cohort):
                put(finished(plain), place_of(folder, point))
            tell("guard")
    configs.clear()  # from here on the folders are what there is
    tidy(folder, calibration.front)
    return calibration


def _kind(denoiser: Any) -> str:
    """Type of its device and of its numbers: a recording of others is drawn anew."""
    first = next(denoiser.parameters())
    return f"{first.device.type} {first.dtype}"


def _nothing_judged(books: Books) -> ConfigError:
    """Every candidate was skipped: that is no fault of theirs, and the next call is to try them again."""
    count, why = len(books.skipped), next(iter(books.skipped.values()))
    books.skipped.clear()
    books.write()
    return ConfigError(
        f"none of the {count} candidates could be judged; the first because {why}. Nothing is kept of that: the same "
        "command tries them again"
    )


def first_choices(gaps: Gaps) -> list[Steps]:
    """The sets of steps that a search begins with: the surrogate's best of every size, and theory's for twofold."""
    found = [choice.computed for size in ladder(gaps.steps) for choice in choose_steps(gaps, size, count=1)]
    found.append(tuple(sorted({*typical_steps(gaps.steps, max(2, gaps.steps // 2)), *gaps.boundaries})))
    return list(dict.fromkeys(found))


def ladder(num_steps: int) -> list[int]:
    """How many steps to compute: from a seventh of all to four fifths, a tenth apart or more."""
    sizes, size = [], float(max(3, num_steps // 7))
    while size <= 0.8 * num_steps:
        sizes.append(round(size))
        size = max(size + 1, size * 1.12)
    return sizes
