"""What the search over calls and sites begins with: our solver's trajectories, and the published schedules of rivals.

What a search begins with, its front is never below. So every rule of :mod:`dit_accel.schedules` that the groups can
say is among the seeds, with the settings of its paper: FORA, T-GATE, DeepCache, Faster Diffusion's encoder
propagation, Delta-DiT's block range; the solved schedules of SmoothCache, CacheQuant and MeanCache (whose path with
exponent 1 is DPCache's); and trajectories with some of these inside their computed calls.
"""

from collections.abc import Callable, Sequence

from dit_accel.calibration.beginnings import ladder, steps_of_plan
from dit_accel.calibration.choose import Gaps, choose_steps
from dit_accel.calibration.curves import Curves
from dit_accel.calibration.sites_genome import Genome, Groups, genome_of
from dit_accel.calibration.solved import cachequant_schedule, shortest_path_schedule, smoothcache_schedule
from dit_accel.errors import ConfigError
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.schedules import GeneratorSpec, Schedule, ScheduleError, SiteGraph
from dit_accel.schedules.kept import spread
from dit_accel.schedules.theory import typical_steps

RULES = (
    ("FORA 2", GeneratorSpec("every_n", n=2)),
    ("FORA 3", GeneratorSpec("every_n", n=3)),
    ("FORA 5", GeneratorSpec("every_n", n=5)),
    ("front-loaded 3", GeneratorSpec("front_loaded", n=3)),
    ("Delta-DiT 2", GeneratorSpec("block_range", n=2)),
    ("DeepCache 2", GeneratorSpec("deepcache", n=2)),
    ("DeepCache 3", GeneratorSpec("deepcache", n=3)),
    ("DeepCache 5", GeneratorSpec("deepcache", n=5)),
    ("DeepCache 3, non-uniform", GeneratorSpec("deepcache", n=3, power=1.4)),
    ("Faster Diffusion", GeneratorSpec("encoder_propagation")),
)
INSIDE = (
    ("FORA 2", GeneratorSpec("every_n", n=2)),
    ("DeepCache 2", GeneratorSpec("deepcache", n=2)),
)


def seeds(
    gaps: Gaps,
    graph: SiteGraph,
    groups: Groups,
    curves: Curves | None = None,
    *,
    sizes: Sequence[int] | None = None,
    plans: Sequence[AccelerationPlan] = (),
) -> dict[str, Genome]:
    """Candidates by name, those that behave alike once.

    Args:
        gaps: Of the recording.
        graph: Sites of the denoiser.
        groups: Of these.
        curves: For the solved schedules; ``None``: without them.
        sizes: How many evaluations trajectories compute; ``None``: a ladder.
        plans: Whose computed evaluations are trajectories too.
    """
    steps = gaps.steps
    found: dict[str, Genome] = {"plain": Genome.of(range(steps), steps)}
    trajectories = {}
    for size in sizes or ladder(steps):
        for choice in choose_steps(gaps, size, count=1):
            trajectories[f"trajectory {size} of {steps}"] = choice.computed
    half = tuple(sorted({*typical_steps(steps, max(2, steps // 2)), *gaps.boundaries}))
    trajectories["trajectory by theory"] = half
    trajectories |= {f"plan '{plan.name}'": steps_of_plan(plan, steps, gaps.boundaries) for plan in plans}
    found |= {name: Genome.of(computed, steps) for name, computed in trajectories.items()}
    gate = GeneratorSpec("t_gate", gate=max(1, steps // 2))
    for name, rule in (*RULES, ("T-GATE", gate)):
        found |= _said(name, lambda rule=rule: rule.build(graph, steps), groups)  # type: ignore[misc]
    if curves is not None:
        for name, make in (
            ("SmoothCache", lambda: smoothcache_schedule(curves, share=0.5)),
            ("CacheQuant", lambda: cachequant_schedule(curves, num_computed=steps // 2)),
            ("MeanCache", lambda: shortest_path_schedule(curves, num_computed=steps // 2)),
            ("DPCache", lambda: shortest_path_schedule(curves, num_computed=steps // 2, gamma=1.0)),
        ):
            found |= _said(name, make, groups)
    for name, computed in trajectories.items():
        count = len(computed)
        for inside, rule in (*INSIDE, ("T-GATE", GeneratorSpec("t_gate", gate=max(1, count // 2), warmup=count))):
            found |= _said(
                f"{name}, {inside} inside",
                lambda rule=rule, computed=computed: spread(rule.build(graph, len(computed)), computed, steps),  # type: ignore[misc]
                groups,
                computed,
            )
    distinct: dict[Genome, str] = {}
    for name, genome in found.items():
        distinct.setdefault(genome, name)
    return {name: genome for genome, name in distinct.items()}


def _said(
    name: str, make: Callable[[], Schedule], groups: Groups, computed: Sequence[int] | None = None
) -> dict[str, Genome]:
    """A schedule as a genome; nothing where the model has not its sites, or the groups cannot say it."""
    try:
        return {name: genome_of(make(), groups, computed)}
    except (ScheduleError, ConfigError):
        return {}
