"""Finds trajectory plans for a pipeline: record, measure gains, choose steps, fit, judge, evolve.

A calibration has a folder. Every judgement is on disk as soon as it is made; stopped and called again it draws its
recording anew, takes the judgements that are there, and goes on as if it had not been stopped.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dit_accel.calibration.choose import Gaps, choose_steps, gram_of
from dit_accel.calibration.evolve import Steps, evolve
from dit_accel.calibration.fit import Fitted, first_of_each, fit
from dit_accel.calibration.front import Point, front_of
from dit_accel.calibration.gains import measure_gains
from dit_accel.calibration.guard import with_guard
from dit_accel.calibration.recording import Recording, record
from dit_accel.errors import AccelerationWarning, ConfigError
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.families.targets import find_targets
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.plan.fingerprint import digest, fingerprint
from dit_accel.plan.plan import NOT_CERTIFIED, AccelerationPlan
from dit_accel.plan.weights import sample_weights
from dit_accel.prompts import load_prompts
from dit_accel.schedules.theory import typical_steps

SEED = 50_000  # of the first prompt; certificates count from 0
NUM_IMAGES, NUM_VIDEOS = 32, 12
GAIN_PROMPTS = 4
JOB_FILE, STATE_FILE = "job.json", "judged.json"
CALIBRATED_NOTE = f"calibrated on search prompts, {NOT_CERTIFIED}: `dit-accel certify` measures it on others"

OnProgress = Callable[[str, float, "Calibration"], None]
"""Told what is done (``"record"``, ``"gains"``, ``"judge"``), the seconds that are left, and the calibration."""


@dataclass(slots=True)
class Calibration:
    """What is known so far.

    Attributes:
        points: Everything that was judged, in that order.
        generations: How many generations the search has gone through.
        hypervolume: Of all points, if it was computed.
        num_steps: T.
    """

    num_steps: int = 0
    points: list[Point] = field(default_factory=list)
    generations: int = 0
    hypervolume: float | None = None
    _plan: Callable[[Point], AccelerationPlan] | None = None

    @property
    def front(self) -> tuple[Point, ...]:
        """What no other point beats."""
        return front_of(self.points)

    def plan(self, point: Point) -> AccelerationPlan:
        """The plan of a point, its weights fitted; the pipeline is needed for that once more."""
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
    on_progress: OnProgress | None = None,
) -> Calibration:
    """Search trajectory plans of all speeds for a pipeline, as it is set up now.

    Args:
        pipe: A text-to-image or text-to-video pipeline; left as it was.
        folder: Keeps what was judged; a folder of the same calibration is gone on with.
        model: What the pipeline was loaded from.
        settings: Of the runs to accelerate; ``None``: the pipeline's own.
        prompts: To search with; ``None``: the list ``search`` that ships.
        num_prompts: How many of them, all drawn in one call; ``None``: 32 images or 12 videos.
        budget_s: Seconds; the surrogate's plans are judged whatever it says.
        generations: End after so many generations of the evolutionary search instead.
        seed: Of the search.
        on_progress: Told of every judgement.

    Returns:
        The points; ``calibration.plan(point)`` makes a plan of one.

    Raises:
        ConfigError: The folder holds something else, or the pipeline cannot be run.
        UnsupportedModelError: Its scheduler is random at every step, or not linear in the output.
    """
    began = time.monotonic()
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
        "scheduler": digest({type(pipe.scheduler).__name__: str(pipe.scheduler.config)}),
        "settings": asdict(chosen),
        "prompts": digest(listed[:count]),
        "seed": seed,
    }
    claim(folder / JOB_FILE, identity, "a calibration")
    state = read_json(folder / STATE_FILE) or {"points": [], "gains": None}
    known = {point.computed: point for point in map(Point.from_dict, state["points"])}
    calibration = Calibration()

    def draw(first: int, last: int) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccelerationWarning)
            return generate(pipe, listed[first:last], range(SEED + first, SEED + last), chosen)

    def tell(what: str) -> None:
        if on_progress is not None:
            on_progress(what, max(0.0, budget_s - (time.monotonic() - began)), calibration)

    reference = record(pipe, draw, 0, count)
    calibration.num_steps = reference.num_steps
    tell("record")
    gains = state["gains"] or measure_gains(pipe, draw, reference, min(GAIN_PROMPTS, count))
    state["gains"] = gains
    write_json(folder / STATE_FILE, state)
    tell("gains")
    gaps = Gaps(gram_of(reference), gains, first_of_each(reference.denoisers) - {0})
    reference.outputs.clear()
    fitted: dict[Steps, Fitted] = {}

    def judge(steps: Steps) -> Point:
        if steps in known:
            calibration.points.append(known[steps])
            return known[steps]
        result = fit(pipe, draw, reference, steps, 0, count)
        point = judged(steps, result, reference)
        fitted.clear()  # only the last one is kept at hand
        fitted[steps] = result
        known[steps] = point
        calibration.points.append(point)
        state["points"].append(point.to_dict())
        write_json(folder / STATE_FILE, state)
        tell("judge")
        return point

    def plan(point: Point) -> AccelerationPlan:
        result = fitted.get(point.computed) or fit(pipe, draw, reference, point.computed, 0, count)
        return AccelerationPlan(
            name=f"trajectory-{len(point.computed)}-of-{point.num_steps}",
            passes=(with_guard(pipe, draw, result.config, 0, count),),
            fingerprints=tuple(fingerprint(target) for target in targets),
            conditions=reference.conditions,
            notes=(CALIBRATED_NOTE,),
        )

    calibration._plan = plan
    seeds = first_choices(gaps)
    for generation in evolve(seeds, judge, gaps, seed=seed):
        calibration.generations = generation.number
        calibration.hypervolume = generation.hypervolume
        tell("generation")
        over = time.monotonic() - began >= budget_s
        if generation.number >= generations if generations is not None else over:
            break
    return calibration


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


def judged(steps: Steps, result: Fitted, reference: Recording) -> Point:
    """How close a fitted plan's own run came to the plain one's pictures."""
    networks = [name for name in available_perceptual() if name == "st_lpips"]
    scores = fidelity(result.pictures, reference.pictures, perceptual=networks)
    in_order = sorted(scores.psnr_db)
    worst = in_order[: max(1, len(in_order) // 10)]
    return Point(
        computed=steps,
        num_steps=reference.num_steps,
        psnr_db=round(sum(in_order) / len(in_order), 4),
        worst_db=round(sum(worst) / len(worst), 4),
        st_lpips=None if scores.st_lpips is None else round(sum(scores.st_lpips) / len(scores.st_lpips), 6),
    )
