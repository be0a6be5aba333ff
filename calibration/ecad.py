"""ECAD as published (Aggarwal et al., arXiv 2506.15682): booleans for every step, block and component, by NSGA-II.

Two objectives: 1 - the mean score of a judge that knows no plain picture, over prompts and seeds, and the linear
multiply-accumulates of a run. No trajectory, no fitted weight, no surrogate; nothing but schedules of sites. It is
here so that the paper's own setting can be run, and so that what we do differently can be measured against it.

Departures: the judge is ImageReward where its weights are, else one of ours by name; step 0's bits are set, since they
do nothing; generations are kept as JSON and gone on with from the judgements, not from a pickle.
"""

import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import fsum, isfinite
from pathlib import Path
from typing import Any

import torch

from dit_accel.api import accelerated
from dit_accel.calibration.books import read_judged
from dit_accel.calibration.calibrate import SEED
from dit_accel.calibration.ecad_genome import (
    MUTATED_FRAC,
    POPULATION,
    Bits,
    children_of,
    first_population,
    schedule_of,
    sites_of,
)
from dit_accel.calibration.ecad_judges import closeness, judge_named
from dit_accel.calibration.site_times import count_plain_macs
from dit_accel.calibration.subject import check_steps
from dit_accel.errors import AccelerationWarning, ConfigError
from dit_accel.evaluation.progress_files import claim, write_json
from dit_accel.families.targets import find_targets
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video, steps_of
from dit_accel.plan.fingerprint import digest, fingerprint, scheduler_digest
from dit_accel.plan.plan import NOT_CERTIFIED, AccelerationPlan
from dit_accel.plan.weights import sample_weights
from dit_accel.prompts import load_prompts
from dit_accel.schedules.lowering import REUSE, SKIP, lower

NUM_PROMPTS, SEEDS_EACH = 100, 10  # 1,000 images a candidate
BATCH = 16
BROODS = 50  # in a row without a new genome: the search has found all that it can
JOB_FILE, STATE_FILE = "job.json", "judged.json"
NOTE = f"found by ECAD's search with the judge '{{}}', {NOT_CERTIFIED}: `dit-accel certify` measures it"

OnEcad = Callable[[str, float, "EcadCalibration"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EcadPoint:
    """A judged genome.

    Attributes:
        bits: The genome.
        score: Mean of the judge over all images.
        macs: Linear multiply-accumulates of a run of one image.
    """

    bits: Bits
    score: float
    macs: int

    @property
    def aims(self) -> tuple[float, float]:
        """ECAD's two objectives, both to be small."""
        return 1.0 - self.score, float(self.macs)


@dataclass(slots=True)
class EcadCalibration:
    """What is known so far.

    Attributes:
        sites: What the bits are of, within a step.
        points: Everything that was judged.
        skipped: What could not be, its score being no finite number.
        generations: How many the search has gone through.
        hypervolume: Of all points, multiply-accumulates as a share of the uncached run's; ``None``: no moocore.
        judge: By which.
    """

    sites: tuple[str, ...] = ()
    points: list[EcadPoint] = field(default_factory=list)
    skipped: list[Bits] = field(default_factory=list)
    generations: int = 0
    hypervolume: float | None = None
    judge: str = ""
    _plan: Callable[[EcadPoint], AccelerationPlan] | None = None

    @property
    def front(self) -> tuple[EcadPoint, ...]:
        """What no other point beats, fewest multiply-accumulates first."""
        found: list[EcadPoint] = []
        for point in sorted(self.points, key=lambda each: (each.macs, -each.score)):
            if not found or point.score > found[-1].score:
                found.append(point)
        return tuple(found)

    def plan(self, point: EcadPoint) -> AccelerationPlan:
        """The plan of a point."""
        assert self._plan is not None
        return self._plan(point)


def calibrate_ecad(
    pipe: Any,
    folder: str | Path,
    *,
    model: str,
    settings: GenerationSettings | None = None,
    prompts: Sequence[str] | None = None,
    num_prompts: int | None = None,
    seeds_each: int = SEEDS_EACH,
    judge: str | None = None,
    weights: str | Path = "weights",
    population: int = POPULATION,
    mutated_frac: float = MUTATED_FRAC,
    flipped_frac: float | None = None,
    budget_s: float = 1200.0,
    generations: int | None = None,
    seed: int = 0,
    on_progress: OnEcad | None = None,
) -> EcadCalibration:
    """Search schedules of sites as ECAD does.

    Args:
        pipe: A text-to-image pipeline; left as it was.
        folder: Keeps what was judged; a folder of the same search is gone on with.
        model: What the pipeline was loaded from.
        settings: Of the runs; ``None``: the pipeline's own.
        prompts: To draw; ``None``: the list ``search`` that ships.
        num_prompts: How many of them; ``None``: 100, as in the paper.
        seeds_each: Pictures of each prompt; the paper's are 10.
        judge: ``"image-reward"``, ``"emoji-two-tower"``, or ``"st_lpips"``, the distance from the plain pictures;
            ``None``: the first of these that is at hand.
        weights: Folder of the judges' weights.
        population: Genomes of a generation.
        mutated_frac: Share of children that are mutated at all.
        flipped_frac: Share of the bits of those that flip; ``None``: one in their number.
        budget_s: Seconds; the first population is judged whatever it says.
        generations: End after so many generations instead.
        seed: Of the search.
        on_progress: Told of every judgement.

    Raises:
        ConfigError: The folder holds something else, it is a video pipeline, or the judge is not known.
        MissingDependencyError: DEAP is not installed, or no judge is at hand.
    """
    began = time.monotonic()
    chosen = settings or GenerationSettings()
    if makes_video(pipe):
        raise ConfigError("ECAD's setting is for pictures; search videos without it")
    listed = tuple(prompts or load_prompts("search", "image").prompts)[: num_prompts or NUM_PROMPTS]
    captions = [prompt for prompt in listed for _ in range(seeds_each)]
    target, *others = find_targets(pipe)
    if others:
        raise ConfigError("ECAD's setting is for pipelines with one denoiser")
    graph, sites, steps = target.layout.graph, sites_of(target.layout.graph), steps_of(pipe, chosen)
    check_steps(pipe, chosen)
    if not sites:
        raise ConfigError("no attention or feed-forward was found that a genome could decide on")
    name, scorer = judge_named(judge, Path(weights))
    sample = sample_weights(target.denoiser)
    identity = {
        "what": "ecad",
        "model": model,
        "weights": None if sample is None else digest(asdict(sample)),
        "scheduler": scheduler_digest(pipe.scheduler),
        "settings": asdict(chosen),
        "prompts": digest(captions),
        "judge": name,
        "search": [population, mutated_frac, flipped_frac, seed],
    }
    folder = Path(folder)
    claim(folder / JOB_FILE, identity, "an ECAD search")
    state: dict[str, Any] = read_judged(folder / STATE_FILE) or {"points": {}}
    state.setdefault("skipped", {})
    calibration = EcadCalibration(sites=sites, judge=name)

    def draw(first: int, last: int) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccelerationWarning)
            return generate(pipe, captions[first:last], range(SEED + first, SEED + last), chosen)

    batches = [(first, min(first + BATCH, len(captions))) for first in range(0, len(captions), BATCH)]
    score = scorer if scorer is not None else closeness([draw(*batch) for batch in batches])
    report = count_plain_macs(pipe, lambda: draw(0, 1))[target.name]

    def macs(bits: Bits) -> int:
        program = lower(schedule_of(bits, sites), graph)
        idle = [
            {site.id for site, action in zip(graph, row.actions, strict=True) if action in (REUSE, SKIP)}
            for row in program.rows
        ]
        return sum(report.without(graph, each, linear=True) for each in idle)

    def evaluate(bits: Bits) -> EcadPoint | None:
        text = "".join("01"[bit] for bit in bits)
        if text not in state["points"] and text not in state["skipped"]:
            scores: list[float] = []
            with accelerated(pipe, [StaticCacheConfig(schedule=schedule_of(bits, sites), invariants=False)]):
                for first, last in batches:
                    scores += score(draw(first, last), captions[first:last], range(first, last))
            if all(map(isfinite, scores)):
                state["points"][text] = [fsum(scores) / len(scores), macs(bits)]
            elif not calibration.points:
                raise ConfigError(f"the scores of the plain pictures are not finite: '{name}' cannot judge others")
            else:
                state["skipped"][text] = "its scores are not finite (NaN or infinity)"
            write_json(folder / STATE_FILE, state)
        if text in state["skipped"]:
            calibration.skipped.append(bits)
            return None
        mean, cost = state["points"][text]
        point = EcadPoint(bits=bits, score=mean, macs=cost)
        calibration.points.append(point)
        if on_progress is not None:
            on_progress("judge", max(0.0, budget_s - (time.monotonic() - began)), calibration)
        return point

    def plan(point: EcadPoint) -> AccelerationPlan:
        return AccelerationPlan(
            name=f"ecad-{point.macs / calibration.points[0].macs:.2f}",
            passes=(StaticCacheConfig(schedule=schedule_of(point.bits, sites)),),
            fingerprints=(fingerprint(target),),
            notes=(NOTE.format(name),),
        )

    calibration._plan = plan
    rng = random.Random(seed)

    def judged(genomes: Sequence[Bits]) -> dict[Bits, EcadPoint]:
        return {bits: point for bits in genomes if (point := evaluate(bits)) is not None}

    alive = judged(first_population(graph, steps, population, seed))
    while True:
        calibration.hypervolume = _hypervolume(calibration.points)
        if on_progress is not None:
            on_progress("generation", max(0.0, budget_s - (time.monotonic() - began)), calibration)
        over = time.monotonic() - began >= budget_s
        if calibration.generations >= generations if generations is not None else over:
            return calibration
        plain = (True,) * (steps * len(sites))
        # The uncached schedule is no candidate: the paper's constraint on the Hamming distance from it.
        ranked = _ranked([point for bits, point in alive.items() if bits != plain])
        known = {point.bits for point in calibration.points} | {*calibration.skipped, plain}
        how = (rng, [point.bits for point in ranked], known, population, len(sites), mutated_frac, flipped_frac)
        children = next((made for _ in range(BROODS) if (made := children_of(*how))), []) if ranked else []
        if not children:
            return calibration
        alive |= judged(children)
        best = _ranked([point for bits, point in alive.items() if bits != plain])
        alive = {point.bits: point for point in best[:population]}
        calibration.generations += 1


def _ranked(points: Sequence[EcadPoint]) -> list[EcadPoint]:
    """All of them in the order of NSGA-II: rank first, then how far apart they lie."""
    from dit_accel.calibration.sites_evolve import selected

    return selected(points, [point.aims for point in points], len(points))


def _hypervolume(points: Sequence[EcadPoint]) -> float | None:
    try:
        import moocore
    except ImportError:
        return None
    table = [[point.macs / points[0].macs, 1 - point.score] for point in points]
    return float(moocore.hypervolume(table, ref=[1.0, 1.0]))
