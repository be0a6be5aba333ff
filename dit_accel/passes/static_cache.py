"""Static feature caching: a schedule says at which step each module is computed and at which its output is reused.

The kept value is the module's raw output, before gates, modulation and residual, which always run with the current
step's embedding (ECAD, Aggarwal et al., 2506.15682; FORA, Selvaraju et al., 2407.01425). Whole blocks on a residual
stream keep what they add to it. Corrections (:mod:`.corrections`) answer with more than the last value as it is.

In a plan with a trajectory the schedule counts all evaluations of a run, those that the trajectory answers among them.
Nothing happens at those: what was to be recomputed there is recomputed at the next one that is computed, and a reuse
takes what the site gave when it was last computed. ``dit_accel.schedules.kept.spread`` turns a rule for the computed
evaluations alone into such a schedule.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch

from dit_accel.errors import ConfigError, PlanMismatchError
from dit_accel.families.targets import Target
from dit_accel.passes.base import Pass, register_pass
from dit_accel.passes.corrections import Corrected, check_corrections, check_site, corrected_sites
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.scheduled import ScheduledRows
from dit_accel.runtime.sockets import DECIDES
from dit_accel.schedules import GeneratorSpec, Schedule, ScheduleError, invariants, resample
from dit_accel.schedules.graph import SiteGraph
from dit_accel.schedules.lowering import REUSE, SKIP

NAME = "static_cache"
WHAT = "scheduled module calls saved"
DEFAULT_STEPS = 20  # what a generator is tried with before the first run
FEW_STEPS = 4  # up to here a run is one of a step-distilled model, whose steps have little in common


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StaticCacheConfig(PassConfig):
    """Keep and reuse module outputs by a fixed schedule.

    Args:
        schedule: A :class:`Schedule` for a given number of steps (resampled for others, with a warning), or a
            :class:`GeneratorSpec` that makes one for any number.
        invariants: Also compute text projections only once per run; exact as long as the conditioning is unchanged.
        corrections: ``"<site>.scale"`` and ``"<site>.shift"``, fp32, shape [T, C], applied to reused outputs over
            the channel axis: the last one of token sequences [B, N, C], the second one of images [B, C, H, W]. A
            scale [T, K, C] forecasts from the last K kept values, newest first, up to 3; ``"<site>.nodes"``, integers
            [T, K], then says which evaluations those are, -1 for none. C may be 1: one number for all channels.

    Raises:
        ConfigError: A field has the wrong type, or a correction is not finite, lacks its partner, or has another T.
    """

    type_name: ClassVar[str] = NAME

    schedule: Schedule | GeneratorSpec
    invariants: bool = True
    corrections: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, (Schedule, GeneratorSpec)):
            raise ConfigError(f"'schedule' must be a Schedule or a GeneratorSpec, got {type(self.schedule).__name__}")
        if not isinstance(self.invariants, bool):
            raise ConfigError(f"'invariants' must be true or false, got {self.invariants!r}")
        check_corrections(self.schedule, self.corrections)

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type_name,
            "version": self.version,
            "schedule": self.schedule.to_dict(),
            "invariants": self.invariants,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self.corrections)

    @property
    def is_lossless(self) -> bool:
        """Whether no output of a module is reused; what the conditioning alone decides may be kept."""
        if isinstance(self.schedule, Schedule):
            return self.schedule.is_exact
        return self.schedule.name == "custom" and not self.schedule.params["reuse"]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> "StaticCacheConfig":
        cls.check_keys(data)
        fields = dict(data)
        schedule = fields.pop("schedule", None)
        if not isinstance(schedule, Mapping):
            raise ConfigError("'static_cache' needs a 'schedule'")
        try:
            if "generator" in schedule:
                built: Schedule | GeneratorSpec = GeneratorSpec.from_dict(schedule)
            else:
                built = Schedule.from_dict(schedule)
        except ScheduleError as error:
            raise ConfigError(str(error)) from error
        return cls(schedule=built, corrections=dict(tensors), **fields)

    def schedule_for(self, graph: SiteGraph, num_steps: int, *, with_invariants: bool = True) -> Schedule:
        """The schedule of a run of ``num_steps`` denoiser evaluations on a model with these sites."""
        if isinstance(self.schedule, GeneratorSpec):
            schedule = self.schedule.build(graph, num_steps)
        else:
            schedule = resample(self.schedule, num_steps)
        return schedule.merged(invariants(graph, num_steps)) if self.invariants and with_invariants else schedule


def apply_static_cache(runtime: DenoiserRuntime, config: StaticCacheConfig) -> None:
    """Make one denoiser follow the schedule.

    Raises:
        PlanMismatchError: The schedule, or a correction, is for sites that the denoiser does not have.
    """
    schedules = _Schedules(runtime, config)
    try:
        config.schedule_for(runtime.graph, schedules.nominal_steps).check(runtime.graph)
    except ScheduleError as error:
        raise PlanMismatchError(f"{runtime.name}: {error}") from error
    rows = ScheduledRows(runtime.graph, schedules, lambda: runtime.depths)
    runtime.decide(rows, by=NAME)
    runtime.ensure_wrapped(rows.program(schedules.nominal_steps))
    for site in corrected_sites(config.corrections):
        check_site(runtime, site)
        runtime.keep(site, partial(Corrected, runtime, config.corrections), by=NAME)


def effect_of_static_cache(runtime: DenoiserRuntime, config: StaticCacheConfig) -> Effect:
    """Share of the module calls at the scheduled sites that were not computed."""
    stats, rows = runtime.stats, runtime.source
    assert isinstance(rows, ScheduledRows)
    if not stats.calls:
        program = rows.program(_Schedules(runtime, config).nominal_steps)
        count = sum(len(program.active) for _ in program.rows) or 1
        saved = sum(row.actions[p] in (REUSE, SKIP) for row in program.rows for p in program.active)
        return Effect(what=WHAT, planned_frac=saved / count)
    total = max(1, stats.site_calls)
    actual = stats.actual_saved
    return Effect(
        what=WHAT,
        planned_frac=stats.planned_saved / total,
        actual_frac=None if actual is None else actual / total,
        total=total,
        shortfall=_shortfall(runtime, rows.program(stats.num_steps).planned(REUSE)),
    )


def _shortfall(runtime: DenoiserRuntime, planned: int) -> str | None:
    """What to tell the user of a run that reused less than its plan says; ``planned`` is of a whole run."""
    stats = runtime.stats
    if planned and not stats.planned_reuse and stats.answered < stats.calls:
        others = "the steps that were to reuse some are answered without the denoiser" if stats.answered else ""
        return (
            f"the plan reuses outputs of '{runtime.name}', but this run of {stats.num_steps} steps reused none "
            f"({stats.reasons or others or 'too few steps'}); it was no faster than without the plan."
        )
    if stats.actual_reuse is None or stats.actual_reuse >= stats.planned_reuse:
        return None
    silent = runtime.never_called
    return (
        f"'{runtime.name}' reused {stats.actual_reuse} of {stats.planned_reuse} planned outputs; "
        f"never called: {', '.join(silent[:4]) or 'none'}{' ...' if len(silent) > 4 else ''}."
    )


class _Schedules:
    """Gives the schedule for the step count at hand, and says so when the plan was made for another."""

    def __init__(self, runtime: DenoiserRuntime, config: StaticCacheConfig) -> None:
        self.runtime = runtime
        self.config = config
        self.made_for = config.schedule.num_steps if isinstance(config.schedule, Schedule) else None
        self.nominal_steps = self.made_for or DEFAULT_STEPS

    def __call__(self, num_steps: int) -> Schedule:
        if self.made_for not in (None, num_steps):
            self.runtime.warn(
                f"the schedule was made for {self.made_for} denoiser evaluations and the run has {num_steps}: "
                "resampled at the same fractions of the trajectory; what was measured for it no longer holds."
            )
        schedule = self.config.schedule_for(self.runtime.graph, num_steps)
        if num_steps <= FEW_STEPS and any(not self.runtime.graph.is_invariant(site) for site in schedule.recompute):
            self.runtime.warn(
                f"a run of {num_steps} denoiser evaluations has little to reuse: one step differs too much from the "
                "next, and the picture will change. The preset 'lossless' is safe."
            )
        return schedule


def _obstacles(target: Target, config: StaticCacheConfig) -> list[str]:
    if not target.layout.graph.select(kinds=None):
        return ["no module whose output could be kept was found"]
    chunked = [name for name, module in target.denoiser.named_modules() if getattr(module, "_chunk_size", None)]
    if chunked:
        # A module that is called several times a step has several outputs, and we keep one.
        return [
            f"forward chunking is on in {len(chunked)} blocks, e.g. '{chunked[0]}': disable_forward_chunking() first"
        ]
    return []


register_pass(
    Pass(
        config=StaticCacheConfig,
        summary="keeps module outputs and reuses them at the steps a schedule names",
        phase="rows",
        claims=frozenset((DECIDES,)),
        obstacles=_obstacles,
        example=lambda: StaticCacheConfig(schedule=GeneratorSpec("custom", reuse={})),
        apply=apply_static_cache,
        effect=effect_of_static_cache,
    )
)
