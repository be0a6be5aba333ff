"""Finds plans that save calls and, inside those that are computed, sites: ECAD's search (arXiv 2506.15682) whole.

Seeds are our solver's trajectories and the rivals' own schedules, so that the front is never below either; a
surrogate screens, real runs on search prompts judge, a few prompts first; the weights of every candidate are fitted on
its own run. Cost is the run's time by a table of site times of this device.

Every judgement is on disk as soon as it is made. Stopped and called again the search draws its recording anew, takes
the judgements and the table that are there, and goes on as if it had not been stopped.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dit_accel.calibration.beginnings import told
from dit_accel.calibration.books import read_judged
from dit_accel.calibration.calibrate import GAIN_PROMPTS
from dit_accel.calibration.choose import Gaps, gram_of
from dit_accel.calibration.corrections import record_moments
from dit_accel.calibration.curves import record_curves
from dit_accel.calibration.finishing import CALIBRATED_NOTE
from dit_accel.calibration.fit import first_of_each
from dit_accel.calibration.gains import measure_gains
from dit_accel.calibration.kept_moments import keep_moments, load_moments
from dit_accel.calibration.kept_recording import recorded
from dit_accel.calibration.latency import Pricing, SiteTimes
from dit_accel.calibration.recording import Recording, record
from dit_accel.calibration.site_times import Clock, count_plain_macs, measure_site_times, now
from dit_accel.calibration.sites_errand import SitesErrand, SiteTask
from dit_accel.calibration.sites_evolve import evolve_sites
from dit_accel.calibration.sites_genome import Genome, groups_of
from dit_accel.calibration.sites_judge import Prices, SiteJudge, SitePoint, front_of_sites, rungs
from dit_accel.calibration.sites_quantised import exact_ends, quantised_by, quantised_frac
from dit_accel.calibration.sites_seeds import seeds
from dit_accel.calibration.sites_surrogate import Surrogate, distances
from dit_accel.calibration.spread import Spread, here
from dit_accel.calibration.subject import check_steps, subject_of
from dit_accel.evaluation.progress_files import claim, write_json
from dit_accel.families.targets import find_targets
from dit_accel.pipelines.generation import GenerationSettings
from dit_accel.plan.plan import AccelerationPlan

JOB_FILE, STATE_FILE = "job.json", "judged.json"
RECORDING = "recording"  # folder of the plain run and of the moments, in the search's
GENOME = 2  # of which kind candidates are: those of another kind have other children
TIMED_PROMPTS, CURVE_PROMPTS, MOMENT_PROMPTS = 2, 2, 4

OnSites = Callable[[str, float, "SitesCalibration"], None]
"""Told what is done, the seconds that are left, and the calibration."""


@dataclass(slots=True)
class SitesCalibration:
    """What is known so far.

    Attributes:
        points: Everything that was judged, few prompts or all, in that order.
        seeds: What the search began with, by name.
        generations: How many generations it has gone through.
        hypervolume: Of the points judged by all prompts, if it was computed.
        hypervolumes: Of every generation.
    """

    points: list[SitePoint] = field(default_factory=list)
    seeds: dict[str, Genome] = field(default_factory=dict)
    generations: int = 0
    hypervolume: float | None = None
    hypervolumes: list[float | None] = field(default_factory=list)
    _plan: Callable[[SitePoint], AccelerationPlan] | None = None

    @property
    def front(self) -> tuple[SitePoint, ...]:
        """What no other point beats."""
        return front_of_sites(self.points)

    @property
    def skipped(self) -> tuple[SitePoint, ...]:
        """What could not be judged."""
        return tuple(point for point in self.points if point.fault is not None)

    @property
    def front_of_calls(self) -> tuple[SitePoint, ...]:
        """The same among candidates that leave whole calls out and no site: what the trajectory search can reach."""
        return front_of_sites([point for point in self.points if not point.genome.reused])

    def plan(self, point: SitePoint) -> AccelerationPlan:
        """The plan of a point, its weights fitted; the pipeline is needed for that once more."""
        assert self._plan is not None
        return self._plan(point)


def calibrate_sites(
    pipe: Any,
    folder: str | Path,
    *,
    model: str,
    settings: GenerationSettings | None = None,
    prompts: Sequence[str] | None = None,
    num_prompts: int | None = None,
    budget_s: float = 1200.0,
    generations: int | None = None,
    sizes: Sequence[int] | None = None,
    population: int = 24,
    children: int = 12,
    seed: int = 0,
    plans: Sequence[AccelerationPlan] = (),
    branches: bool = False,
    on_plan: AccelerationPlan | None = None,
    clock: Clock = now,
    on_progress: OnSites | None = None,
    spread: Spread = here,
) -> SitesCalibration:
    """Search plans of calls and sites of all speeds for a pipeline, as it is set up now.

    Args:
        pipe: A text-to-image or text-to-video pipeline; left as it was.
        folder: Keeps what was judged; a folder of the same calibration is gone on with.
        model: What the pipeline was loaded from.
        settings: Of the runs to accelerate; ``None``: the pipeline's own.
        prompts: To search with; ``None``: the list ``search`` that ships.
        num_prompts: How many of them; ``None``: 32 images or 12 videos.
        budget_s: Seconds; the seeds are judged whatever it says.
        generations: End after so many generations instead.
        sizes: How many evaluations the seeds' trajectories compute; ``None``: a ladder.
        population: Survivors of a generation.
        children: That begin the halving in each generation.
        seed: Of the search.
        plans: Begin also with the evaluations that these compute.
        branches: Fit weights of its own to each guidance branch, and try computing the conditional one alone.
        on_plan: A plan that quantises the pipeline: candidates are fitted on it, and how many evaluations at either
            end keep the weights as they were is searched too.
        clock: Times the sites.
        on_progress: Told of every judgement.
        spread: Where candidates are judged: in this process, or on many, with the same results; see :mod:`.spread`.

    Raises:
        ConfigError: The folder holds something else, the pipeline cannot be run, or ``on_plan`` does not quantise.
        UnsupportedModelError: Its scheduler is random at every step, or not linear in the output.
        MissingDependencyError: DEAP is not installed.
    """
    began = time.monotonic()
    check_steps(pipe, settings)
    subject = subject_of(pipe, model, settings, prompts, num_prompts)
    count, folder = subject.count, Path(folder)
    identity = subject.identity(
        what="sites",
        search=[list(sizes or ()), population, children, seed],
        plans=sorted(map(told, plans)),
        branches=branches,
        genome=GENOME,
        on_plan=None if on_plan is None else on_plan.content_sha256(),
    )
    quantised = None if on_plan is None else quantised_by(on_plan)
    claim(folder / JOB_FILE, identity, "a search over sites")
    state: dict[str, Any] = read_judged(folder / STATE_FILE) or {"points": [], "gains": None, "times": None}
    known = {(p.genome, p.num_prompts): p for p in map(SitePoint.from_dict, state["points"])}
    calibration = SitesCalibration()
    draw = subject.draw_at()

    def some(most: int) -> Callable[[], torch.Tensor]:
        return lambda: draw(0, min(most, count))

    def tell(what: str) -> None:
        if on_progress is not None:
            on_progress(what, max(0.0, budget_s - (time.monotonic() - began)), calibration)

    def keep(**more: Any) -> None:
        state.update(more)
        write_json(folder / STATE_FILE, state)

    def run_plain(recording: Recording) -> None:
        record(pipe, draw, 0, count, recording)

    reference = recorded(folder / RECORDING, subject.setup, run_plain, gram_of, outputs=state["gains"] is None)
    steps = reference.num_steps
    tell("record")
    if state["gains"] is None:
        keep(gains=measure_gains(pipe, draw, reference, min(GAIN_PROMPTS, count)))
    tell("gains")
    pricing = _pricing(pipe, some(TIMED_PROMPTS), state["times"], clock)
    keep(times=pricing.times.to_dict())
    tell("times")
    gaps = Gaps(reference.gram, state["gains"], first_of_each(reference.denoisers) - {0})
    reference.forget_outputs()
    graph = subject.targets[0].layout.graph
    groups = groups_of(graph)
    named = tuple(dict.fromkeys(site for sites in groups.values() for site in sites))
    moments = load_moments(folder / RECORDING)
    if moments is None:
        made = record_moments(pipe, some(MOMENT_PROMPTS), named, num_steps=steps)
        moments = keep_moments(folder / RECORDING, made)
    curves = record_curves(pipe, some(CURVE_PROMPTS))
    tell("moments")
    found = calibration.seeds = seeds(gaps, graph, groups, curves, sizes=sizes, plans=plans)
    if quantised is not None:
        found |= exact_ends(found)
        if "quantised" not in state:
            keep(quantised=quantised_frac(pipe, some(TIMED_PROMPTS), quantised, pricing.times.outside_s, clock))
    prices = Prices(pricing=pricing, groups=groups, quantised_frac=state.get("quantised", 1.0))
    judge_now = SiteJudge(
        pipe=pipe,
        draw=draw,
        reference=reference,
        groups=groups,
        moments=moments,
        branches=branches,
        quantised=quantised,
    )

    asked: dict[SiteTask, None] = {}

    def take() -> None:
        """In the order of asking, whoever was ready first; then what an earlier call knew and this one may ask yet."""
        calibration.points = [known[task] for task in asked if task in known]
        later = [point for task, point in known.items() if task not in asked]
        keep(points=[point.to_dict() for point in (*calibration.points, *later)])

    def judge_all(genomes: Sequence[Genome], prompts: int) -> list[SitePoint]:
        wanted = [(genome, prompts) for genome in genomes]
        asked.update(dict.fromkeys(wanted))
        unknown = [task for task in wanted if task not in known]
        for verdict in spread_out(unknown) if unknown else ():
            known[verdict.genome, prompts] = prices.point(verdict)
            take()
            tell("judge")
        take()
        return [known[task] for task in wanted]

    def plan(point: SitePoint) -> AccelerationPlan:
        genome = point.genome
        return AccelerationPlan(
            name=f"sites-{len(genome.computed)}-of-{genome.num_steps}-{point.speedup:.2f}x",
            passes=judge_now.fit(genome, count)[0],
            fingerprints=subject.fingerprints,
            conditions=reference.conditions,
            notes=(CALIBRATED_NOTE,),
        )

    calibration._plan = plan
    rivals = [genome for name, genome in found.items() if not name.endswith(" inside")]
    search = evolve_sites(
        rivals,
        list(found.values()),
        judge_all,
        Surrogate(gaps, groups, *distances(moments, groups)),
        lambda genome: prices.of(genome).seconds,
        groups,
        rungs(count),
        fixed=first_of_each(reference.denoisers),
        halves=branches,
        quantised=quantised is not None,
        population=population,
        children=children,
        seed=seed,
    )
    errand = SitesErrand(
        prompts=subject.prompts, settings=subject.settings, recording=folder / RECORDING, branches=branches
    )
    with spread(errand, judge_now) as spread_out:
        for generation in search:
            calibration.generations = generation.number
            calibration.hypervolume = generation.hypervolume
            calibration.hypervolumes.append(generation.hypervolume)
            tell("generation")
            over = time.monotonic() - began >= budget_s
            if generation.number >= generations if generations is not None else over:
                break
    return calibration


def _pricing(pipe: Any, run: Callable[[], object], kept: Mapping[str, Any] | None, clock: Clock) -> Pricing:
    """The table of site times: the one that is there, or a new one."""
    if kept is None:
        return measure_site_times(pipe, run, rounds=2, clock=clock)
    graphs = {target.name: target.layout.graph for target in find_targets(pipe)}
    return Pricing(times=SiteTimes.from_dict(kept), graphs=graphs, macs=count_plain_macs(pipe, run))
