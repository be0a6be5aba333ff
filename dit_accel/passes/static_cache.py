"""Static feature caching: a schedule says at which step each module is computed and at which its output is reused.

The kept value is the module's raw output, before gates, modulation and residual, which always run with the current
step's embedding (ECAD, Aggarwal et al., 2506.15682; FORA, Selvaraju et al., 2407.01425). Whole blocks on a residual
stream keep what they add to it. Corrections are the per-channel affine maps of CacheQuant (2503.01323, section 3.2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dit_accel.errors import ConfigError, PlanMismatchError
from dit_accel.passes.base import Pass, register_pass
from dit_accel.plan.config import PassConfig
from dit_accel.schedules import GeneratorSpec, Schedule, ScheduleError, invariants, resample
from dit_accel.schedules.graph import SiteGraph

if TYPE_CHECKING:
    from dit_accel.families.targets import Target
    from dit_accel.runtime.denoiser import DenoiserRuntime
    from dit_accel.session.session import Session

SEVERAL_OUTPUTS = ("joint_attn", "down_block", "model")
DEFAULT_STEPS = 20  # what a generator is tried with before the first run
FEW_STEPS = 4  # up to here a run is one of a step-distilled model, whose steps have little in common


@dataclass(frozen=True, slots=True, kw_only=True)
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

    type_name: ClassVar[str] = "static_cache"

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


def apply_static_cache(session: "Session", config: StaticCacheConfig) -> None:
    """Make every denoiser of the session follow the schedule.

    Raises:
        PlanMismatchError: The schedule names sites that a denoiser does not have.
    """
    for runtime in session.runtimes:
        planner = _Planner(runtime, config)
        try:
            config.schedule_for(runtime.graph, planner.nominal_steps).check(runtime.graph)
        except ScheduleError as error:
            raise PlanMismatchError(f"{runtime.name}: {error}") from error
        runtime.use(planner)
        runtime.wrap(runtime.program(planner.nominal_steps))
        if config.corrections:
            runtime.correct = _Corrector(runtime, config)


class _Planner:
    """Gives a runtime its schedule for the step count at hand, and says so when the plan was made for another."""

    def __init__(self, runtime: "DenoiserRuntime", config: StaticCacheConfig) -> None:
        self.runtime = runtime
        self.config = config
        fixed = isinstance(config.schedule, Schedule)
        self.nominal_steps = config.schedule.num_steps if fixed else DEFAULT_STEPS  # type: ignore[union-attr]

    def __call__(self, num_steps: int) -> Schedule:
        made_for = self.config.schedule.num_steps if isinstance(self.config.schedule, Schedule) else num_steps
        if made_for != num_steps:
            self.runtime.warn(
                f"the schedule was made for {made_for} denoiser evaluations and the run has {num_steps}: "
                "resampled at the same fractions of the trajectory; what was measured for it no longer holds."
            )
        schedule = self.config.schedule_for(self.runtime.graph, num_steps)
        if num_steps <= FEW_STEPS and any(not self.runtime.graph.is_invariant(site) for site in schedule.recompute):
            self.runtime.warn(
                f"a run of {num_steps} denoiser evaluations has little to reuse: one step differs too much from the "
                "next, and the picture will change. The preset 'lossless' is safe."
            )
        return schedule


class _Corrector:
    """The affine maps of one step, one per site, on the denoiser's device."""

    def __init__(self, runtime: "DenoiserRuntime", config: StaticCacheConfig) -> None:
        self.runtime = runtime
        self.tables = dict(config.corrections)
        self.num_steps = len(next(iter(self.tables.values())))
        for name in self.tables:
            site = name.rsplit(".", 1)[0]
            if site not in runtime.graph:
                raise PlanMismatchError(f"{runtime.name}: correction '{name}' is for a site this model does not have")
            if runtime.layout.sites[runtime.graph.index[site]].streams:
                raise PlanMismatchError(f"{runtime.name}: '{site}' keeps a residual; corrections are for raw outputs")
            if runtime.graph.sites[runtime.graph.index[site]].kind in SEVERAL_OUTPUTS:
                raise PlanMismatchError(f"{runtime.name}: '{site}' returns several tensors; corrections are for one")

    def __call__(self, step: int, num_steps: int) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        row = step * self.num_steps // num_steps
        parameter = next(self.runtime.denoiser.parameters())
        maps: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(self.runtime.graph)
        for name, table in self.tables.items():
            site, part = name.rsplit(".", 1)
            if part == "scale":
                pair = (table[row], self.tables[f"{site}.shift"][row])
                maps[self.runtime.graph.index[site]] = tuple(  # type: ignore[assignment]
                    t.to(parameter.device, parameter.dtype) for t in pair
                )
        return maps


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


def _obstacles(target: "Target") -> list[str]:
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
        order=20,
        obstacles=_obstacles,
        apply=apply_static_cache,
    )
)
