"""Static feature caching: a schedule says at which step each module is computed and at which its output is reused.

The kept value is the module's raw output, before gates, modulation and residual, which always run with the current
step's embedding (ECAD, Aggarwal et al., 2506.15682; FORA, Selvaraju et al., 2407.01425). Whole blocks on a residual
stream keep what they add to it. Corrections are the per-channel affine maps of CacheQuant (2503.01323, section 3.2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch

from dit_accel.errors import ConfigError, PlanMismatchError
from dit_accel.families.base import BoundSite
from dit_accel.families.targets import Target
from dit_accel.passes.base import Pass, register_pass
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Call, Effect
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.scheduled import ScheduledRows
from dit_accel.runtime.sockets import DECIDES
from dit_accel.runtime.trees import Tree, map_tree
from dit_accel.schedules import GeneratorSpec, Schedule, ScheduleError, invariants, resample
from dit_accel.schedules.graph import SiteGraph
from dit_accel.schedules.lowering import REUSE, SKIP

NAME = "static_cache"
WHAT = "scheduled module calls saved"
SEVERAL_OUTPUTS = ("joint_attn", "down_block", "model")
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
            the channel axis: the last one of token sequences [B, N, C], the second one of images [B, C, H, W].

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
        _check_corrections(self.schedule, self.corrections)

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type_name,
            "version": self.version,
            "schedule": self.schedule.to_dict(),
            "invariants": self.invariants,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self.corrections)

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
    for site in dict.fromkeys(name.rsplit(".", 1)[0] for name in config.corrections):
        _check_site(runtime, site)
        runtime.keep(site, partial(_Affine, runtime, config.corrections), by=NAME)


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


class _Affine:
    """A keeper that corrects the kept value by the affine map of the step, one scale and one shift a channel."""

    depth = 1

    def __init__(self, runtime: DenoiserRuntime, corrections: Mapping[str, torch.Tensor], site: BoundSite) -> None:
        self.denoiser = runtime.target.denoiser
        self.scale, self.shift = (corrections[f"{site.info.id}.{part}"] for part in ("scale", "shift"))

    def numbers(self, call: Call, steps: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """Scale and shift of the step that stands at the same part of the trajectory."""
        row = call.step * len(self.scale) // call.run.num_steps
        parameter = next(self.denoiser.parameters())
        return tuple(table[row].to(parameter.device, parameter.dtype) for table in (self.scale, self.shift))

    def recall(self, values: tuple[Any, ...], numbers: tuple[torch.Tensor, ...]) -> Tree:
        """The corrected value, [B, N, C] or [B, C, H, W]; in a tuple of one if it was kept so (a UNet's attention)."""
        scale, shift = numbers

        def corrected(kept: torch.Tensor) -> torch.Tensor:
            if kept.dim() == 4:
                return kept * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
            return kept * scale + shift

        return map_tree(corrected, values[0])


def _check_site(runtime: DenoiserRuntime, site: str) -> None:
    if site not in runtime.graph:
        raise PlanMismatchError(f"{runtime.name}: a correction is for '{site}', which this model does not have")
    position = runtime.graph.index[site]
    if runtime.target.layout.sites[position].streams:
        raise PlanMismatchError(f"{runtime.name}: '{site}' keeps a residual; corrections are for raw outputs")
    if runtime.graph.sites[position].kind in SEVERAL_OUTPUTS:
        raise PlanMismatchError(f"{runtime.name}: '{site}' returns several tensors; corrections are for one")


def _check_corrections(schedule: Schedule | GeneratorSpec, corrections: Mapping[str, torch.Tensor]) -> None:
    for name, table in corrections.items():
        site, _, part = name.rpartition(".")
        if part not in ("scale", "shift") or not site:
            raise ConfigError(f"correction '{name}' must end in '.scale' or '.shift'")
        if f"{site}.{'shift' if part == 'scale' else 'scale'}" not in corrections:
            raise ConfigError(f"correction '{name}' has no partner; a site needs both scale and shift")
        if not isinstance(schedule, Schedule):
            raise ConfigError("corrections belong to a schedule with a fixed number of steps, not to a generator")
        if not isinstance(table, torch.Tensor):
            raise ConfigError(f"correction '{name}' must be a tensor, got {type(table).__name__}")
        if table.dim() != 2 or len(table) != schedule.num_steps:
            raise ConfigError(
                f"correction '{name}' has shape {list(table.shape)}, wanted [{schedule.num_steps}, channels]"
            )
        bad = int((~torch.isfinite(table)).sum())
        if bad:
            raise ConfigError(f"correction '{name}' holds {bad} values that are not finite (NaN or infinity)")


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
