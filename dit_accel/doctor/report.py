"""A check-up: what was found in a pipeline, what it costs, and which passes can act on it or why not."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dit_accel.doctor.model_state import model_state
from dit_accel.doctor.scheduler_facts import SchedulerFacts, scheduler_facts
from dit_accel.errors import UnsupportedModelError
from dit_accel.families import Family, Layout, resolve_family
from dit_accel.families.macs import count_macs, meta_twin
from dit_accel.families.pipeline import call_default, default_px_of, find_denoisers, vae_scale_of
from dit_accel.families.targets import Target

NUM_STEPS = 20

Obstacles = Callable[[Target], list[str]]
"""The reasons why a pass cannot act on a target; none when it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCost:
    """Multiply-accumulates of one denoiser call for one image, without guidance.

    Attributes:
        total: All of them.
        linear: Without attention products.
        share_frac: Share of ``total`` of each kind of site, what lies inside other sites taken off; ``block`` and
            ``model`` are what no other site covers.
    """

    total: int
    linear: int
    share_frac: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserReport:
    """One denoiser.

    Attributes:
        name: Attribute of the pipeline that holds it.
        model_class: Its class.
        problem: Why it is not understood; everything below is then empty.
        family: Name of its family.
        discovered: Whether the family was discovered rather than registered.
        num_parameters: How many weights it has.
        dtype: Of its weights.
        device: Of its weights.
        num_blocks: Blocks in execution order, refiners included.
        sites: How many sites of each kind a schedule may name.
        num_invariant: How many of them are the same at every step.
        num_auxiliary: Norms that are skipped together with what they feed.
        size_px: Height and width that tokens and cost are for.
        num_frames: Frames that they are for.
        grid: Token grid: frames, rows, columns.
        num_tokens: Tokens of the grid.
        text_tokens: Prompt tokens of the pipeline's call.
        text: Where they sit.
        guidance: How classifier-free guidance is run.
        conditioning: Arguments that carry the prompt.
        cost: Of one call; ``None`` when it could not be counted, for the reason in ``cost_problem``.
        cost_problem: See ``cost``.
        state: What was already done to it.
        obstacles: For each pass the reasons why it cannot act; empty when it can.
        notes: What to know about the family.
    """

    name: str
    model_class: str
    problem: str | None = None
    family: str = ""
    discovered: bool = False
    num_parameters: int = 0
    dtype: str = ""
    device: str = ""
    num_blocks: int = 0
    sites: dict[str, int] = dataclasses.field(default_factory=dict)
    num_invariant: int = 0
    num_auxiliary: int = 0
    size_px: tuple[int, int] = (0, 0)
    num_frames: int = 1
    grid: tuple[int, int, int] = (0, 0, 0)
    num_tokens: int = 0
    text_tokens: int = 0
    text: str = ""
    guidance: str = ""
    conditioning: tuple[str, ...] = ()
    cost: CallCost | None = None
    cost_problem: str | None = None
    state: tuple[str, ...] = ()
    obstacles: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """A pipeline, its scheduler and its denoisers."""

    pipeline_class: str
    scheduler: SchedulerFacts | None
    denoisers: tuple[DenoiserReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self)


def doctor_report(
    pipe: Any,
    checks: Mapping[str, Obstacles] | None = None,
    *,
    height_px: int | None = None,
    width_px: int | None = None,
    num_frames: int | None = None,
    num_steps: int = NUM_STEPS,
) -> DoctorReport:
    """Examine a pipeline or a bare denoiser; nothing is changed and no denoiser is run.

    Args:
        pipe: The pipeline or denoiser.
        checks: Names of passes, each with a function from a target to the reasons why the pass cannot act on it.
        height_px: Output height that tokens and cost are for; by default that of the pipeline's call, else the
            model's own.
        width_px: Output width.
        num_frames: Output frames.
        num_steps: Steps for which the scheduler's evaluations are counted.

    Raises:
        UnsupportedModelError: ``pipe`` has no denoiser at all. One that is not understood is in the report.
    """
    checks = checks or {}
    scheduler = getattr(pipe, "scheduler", None)
    reports = []
    for name, module in find_denoisers(pipe):
        try:
            family = resolve_family(module)
            layout = family.bind(module)
        except UnsupportedModelError as error:
            reports.append(DenoiserReport(name=name, model_class=type(module).__name__, problem=str(error)))
            continue
        target = Target(name=name, denoiser=module, family=family, layout=layout)
        scale = vae_scale_of(pipe, family)
        usual = default_px_of(module, family, scale)
        height = height_px or width_px or call_default(pipe, "height") or usual
        width = width_px or height_px or call_default(pipe, "width") or usual
        size = (height, width, num_frames or call_default(pipe, "num_frames") or family.default_frames)
        reports.append(_examine(pipe, target, scale, size, checks))
    return DoctorReport(
        pipeline_class=type(pipe).__name__,
        scheduler=None if scheduler is None else scheduler_facts(scheduler, num_steps),
        denoisers=tuple(reports),
    )


def _examine(
    pipe: Any, target: Target, scale: tuple[int, int], size: tuple[int, int, int], checks: Mapping[str, Obstacles]
) -> DenoiserReport:
    model, family, graph = target.denoiser, target.family, target.layout.graph
    height, width, frames = size
    grid = family.grid(model, height_px=height, width_px=width, num_frames=frames, vae_scale=scale)
    kinds = {kind: sum(1 for site in graph.schedulable if site.kind == kind) for kind in graph.kinds}
    text_tokens = call_default(pipe, "max_sequence_length") or family.text_tokens
    cost, cost_problem = _cost(model, family, target.layout, size, scale, text_tokens)
    parameter = next(model.parameters())
    return DenoiserReport(
        name=target.name,
        model_class=type(model).__name__,
        family=family.name,
        discovered=family.name.startswith("discovered:"),
        num_parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        num_blocks=graph.num_blocks,
        sites=kinds,
        num_invariant=sum(1 for site in graph if site.invariant),
        num_auxiliary=sum(1 for site in graph if site.auxiliary),
        size_px=(height, width),
        num_frames=frames,
        grid=grid,
        num_tokens=grid[0] * grid[1] * grid[2],
        text_tokens=text_tokens,
        text=family.text,
        guidance=family.guidance,
        conditioning=family.conditioning,
        cost=cost,
        cost_problem=cost_problem,
        state=model_state(pipe, target.name, model),
        obstacles={name: list(check(target)) for name, check in checks.items()},
        notes=family.notes,
    )


def _cost(
    model: nn.Module,
    family: Family,
    layout: Layout,
    size: tuple[int, int, int],
    scale: tuple[int, int],
    text_tokens: int,
) -> tuple[CallCost | None, str | None]:
    """Count on a twin without weights, so that offloading, adapters and compiled code are left alone."""
    height, width, frames = size
    try:
        twin = meta_twin(model)
        if twin is None:
            return None, "the model cannot be rebuilt from its config"
        if family.on_shapes is not None:
            family.on_shapes(twin)
        inputs = family.sample_inputs(
            twin, height_px=height, width_px=width, num_frames=frames, vae_scale=scale, text_tokens=text_tokens,
            dtype=torch.float32,
        )  # fmt: skip
        report = count_macs(twin, layout, inputs)
    except UnsupportedModelError as error:
        return None, str(error)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        # Some models read values (how long is this prompt?), some sizes do not fit, some inputs were guessed wrong.
        return None, f"the model does not run on shapes alone at this size: {' '.join(str(error).split())}"
    kinds = report.by_kind(layout.graph)
    share = {kind: macs / report.total for kind, macs in sorted(kinds.items(), key=lambda item: -item[1])}
    return CallCost(total=report.total, linear=report.linear, share_frac=share), None
