"""Finds sparse-attention plans for a pipeline: record, measure what layers can spare, divide, and judge by real runs.

A calibration has a folder. What was recorded and measured is on disk as soon as it is there; stopped and called again
it takes that and goes on. Plans may be joined with one that leaves out calls or reuses modules: one plan, one
certificate.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dit_accel.api import accelerated, summary
from dit_accel.calibration.attention import choose_paro
from dit_accel.calibration.attention_budget import LADDER, Sensitivity, divide, measure_sensitivity, with_budget
from dit_accel.calibration.attention_record import AttentionRecord, record_attention
from dit_accel.calibration.finishing import CALIBRATED_NOTE
from dit_accel.calibration.gains import measure_gains
from dit_accel.calibration.recording import record
from dit_accel.calibration.shelf import put
from dit_accel.calibration.subject import Subject, subject_of
from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.fidelity import differences, require_metrics
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.paro_config import PAROAttentionConfig, part_of
from dit_accel.passes.attention.routing import SCORES
from dit_accel.passes.attention.rules import DenseRules
from dit_accel.passes.base import pass_of
from dit_accel.pipelines.generation import GenerationSettings
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.file import ConditionsFile
from dit_accel.plan.plan import AccelerationPlan

JOB_FILE, STATE_FILE, RECORD_FILE = "job.json", "attention.json", "attention.safetensors"
NUM_PROMPTS = 4
GAIN_PROMPTS = 2

OnAttention = Callable[[str, float], None]
"""Told what is being done (``"record"``, ``"gains"``, ``"layers"``, ``"judge"``), and which share of it is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPoint:
    """A plan that was judged by real runs on search prompts.

    Attributes:
        target: The density or mass that was asked for.
        density: Share of the blocks that is computed, on the mean of layers and of the steps that are not dense.
        not_computed_frac: Share of the scores that a run leaves out, counted.
        psnr_db: Mean over prompts of the PSNR of pictures to the plain run's.
        worst_db: The worst prompt's.
        st_lpips: Mean ST-LPIPS; ``None``: not measured.
    """

    target: float
    density: float
    not_computed_frac: float | None
    psnr_db: float
    worst_db: float
    st_lpips: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class AttentionCalibration:
    """What was found.

    Attributes:
        points: One for each target, in their order.
        plans: The plan of each.
        budgets: The densities [P, L] that each gives to parts and layers; empty for a mass.
    """

    points: list[AttentionPoint]
    plans: list[AccelerationPlan]
    budgets: list[list[list[float]]]


def calibrate_attention(
    pipe: Any,
    folder: str | Path,
    *,
    model: str,
    settings: GenerationSettings | None = None,
    prompts: Sequence[str] | None = None,
    num_prompts: int = NUM_PROMPTS,
    densities: Sequence[float] = (0.5, 0.3),
    masses: Sequence[float] = (),
    block: int = 64,
    parts: int = 4,
    dense_steps_frac: float = 0.0,
    joined: AccelerationPlan | None = None,
    ladder: Sequence[float] = LADDER,
    on_progress: OnAttention | None = None,
) -> AttentionCalibration:
    """Find plans of the densities or masses that are asked for, and judge them.

    Args:
        pipe: A text-to-image or text-to-video pipeline; left as it was.
        folder: Keeps what was recorded and measured, and gets the plans; one of the same calibration is gone on with.
        model: What the pipeline was loaded from.
        settings: Of the runs; ``None``: the pipeline's own. The masks are for their size alone.
        prompts: To search with; ``None``: the list ``search`` that ships.
        num_prompts: How many of them.
        densities: Shares of the blocks to compute, divided among layers and parts by what they can spare.
        masses: Shares of each head's weight to keep instead, in as few blocks as that takes.
        block: Tokens in a block.
        parts: Parts of a run, each with masks of its own.
        dense_steps_frac: Share of the steps that are dense.
        joined: A plan to put the masks into: of calls that are left out, of modules that are reused.
        ladder: Densities that a layer may get.
        on_progress: Told of the stages.

    Raises:
        ConfigError: The folder holds something else, nothing is asked for, or the joined plan decides on attention
            itself.
        UnsupportedModelError: No attention can be followed.
    """
    require_metrics()
    if not densities and not masses:
        raise ConfigError("say how much to compute: a density, or a mass of attention to keep")
    if joined is not None and any(_decides(config) for config in joined.passes):
        raise ConfigError(f"the plan '{joined.name}' decides on attention scores already: leave it out, or its pass")
    subject = subject_of(pipe, model, settings, prompts, num_prompts)
    folder, draw, count = Path(folder), subject.draw_at(), subject.count
    identity = subject.identity(what="attention", block=block, parts=parts, ladder=list(ladder))
    claim(folder / JOB_FILE, identity, "a calibration of attention")
    state: dict[str, Any] = read_json(folder / STATE_FILE) or {}

    def tell(what: str, done: float) -> None:
        if on_progress is not None:
            on_progress(what, done)

    def keep(**found: Any) -> None:
        state.update(found)
        write_json(folder / STATE_FILE, state)

    tell("record", 0.0)
    pictures, conditions = _plain(folder, state, keep, subject, parts, with_gains=bool(densities), tell=tell)
    recorded = _recorded(folder, lambda: record_attention(pipe, lambda: draw(0, count), block=block, parts=parts))
    tell("record", 1.0)
    sparse_steps = _sparse_steps(conditions, parts, dense_steps_frac)
    if densities and "errors" not in state:
        found = measure_sensitivity(
            pipe, lambda: draw(0, count), recorded, ladder=ladder, on_progress=lambda done: tell("layers", done)
        )
        keep(ladder=list(found.ladder), errors=found.errors.tolist())
    calibration = AttentionCalibration(points=[], plans=[], budgets=[])
    targets = [("density", each) for each in densities] + [("mass", each) for each in masses]
    for place, (kind, target) in enumerate(targets):
        tell("judge", place / len(targets))
        if kind == "density":
            sensitivity = Sensitivity(ladder=tuple(state["ladder"]), errors=np.array(state["errors"]))
            budget = divide(sensitivity, target, gains=state["gains"], sparse_steps=sparse_steps)
            config = with_budget(recorded, budget, dense_steps_frac=dense_steps_frac)
            calibration.budgets.append(budget.tolist())
        else:
            config = choose_paro(recorded, mass=target, dense_steps_frac=dense_steps_frac)
            calibration.budgets.append([])
        plan = _plan(subject, config, conditions, joined, f"attention-{kind}-{target:g}")
        calibration.plans.append(plan)
        calibration.points.append(_judged(pipe, plan, sparse_steps, target, lambda: draw(0, count), pictures))
        put(plan, folder / plan.name)
    tell("judge", 1.0)
    keep(points=[point.to_dict() for point in calibration.points])
    return calibration


def _plain(
    folder: Path,
    state: dict[str, Any],
    keep: Callable[..., None],
    subject: Subject,
    parts: int,
    *,
    with_gains: bool,
    tell: OnAttention,
) -> tuple[torch.Tensor, Conditions]:
    """The plain run's pictures and conditions, and what an error of each part is worth at the end."""
    from safetensors.torch import load_file, save_file

    kept = folder / "plain.safetensors"
    if not kept.is_file() or "conditions" not in state or (with_gains and "gains" not in state):
        draw = subject.draw_at()
        reference = record(subject.pipe, draw, 0, subject.count)
        if not torch.isfinite(reference.pictures).all():
            raise ConfigError("the plain pipeline's own pictures are not finite (NaN or infinity). Try another dtype")
        save_file({"pictures": reference.pictures.contiguous()}, kept)
        keep(conditions=json.loads(json.dumps(asdict(reference.conditions))))
        if with_gains:
            tell("gains", 0.0)
            gains = measure_gains(subject.pipe, draw, reference, min(GAIN_PROMPTS, subject.count))
            keep(gains=[float(np.mean(each)) for each in np.array_split(np.array(gains), parts)])
    conditions = Conditions(**ConditionsFile.model_validate(state["conditions"]).model_dump())
    return load_file(kept)["pictures"], conditions


def _recorded(folder: Path, make: Callable[[], AttentionRecord]) -> AttentionRecord:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = folder / RECORD_FILE
    if not path.is_file():
        made = make()
        said = {
            "size": " ".join(map(str, made.layout.size)),
            "text": " ".join(map(str, made.layout.text or ())),
            "layers": " ".join(made.layers),
            "block": str(made.block),
        }
        partial = path.with_suffix(".partial")
        save_file({"sums": made.sums.contiguous()}, partial, metadata=said)
        partial.rename(path)
    with safe_open(path, "pt") as file:
        said = file.metadata()
    size, text = tuple(map(int, said["size"].split())), tuple(map(int, said["text"].split())) or None
    return AttentionRecord(
        layout=TokenLayout(size, text),  # type: ignore[arg-type]
        layers=tuple(said["layers"].split()),
        block=int(said["block"]),
        sums=load_file(path)["sums"],
    )


def _sparse_steps(conditions: Conditions, parts: int, dense_steps_frac: float) -> list[int]:
    """How many steps of each part of such a run are not dense."""
    num_steps = conditions.num_steps
    assert num_steps is not None
    dense = DenseRules(dense_steps_frac=dense_steps_frac).dense_steps(num_steps)
    if dense >= num_steps:
        raise ConfigError(f"all of the {num_steps} steps are dense: lower 'dense_steps_frac' = {dense_steps_frac:g}")
    found = [part_of(step, num_steps, parts) for step in range(dense, num_steps)]
    return [found.count(part) for part in range(parts)]


def _plan(
    subject: Subject,
    config: PAROAttentionConfig,
    conditions: Conditions,
    joined: AccelerationPlan | None,
    name: str,
) -> AccelerationPlan:
    plan = AccelerationPlan(
        name=name,
        passes=(config,),
        fingerprints=subject.fingerprints,
        conditions=conditions,
        notes=(CALIBRATED_NOTE,),
    )
    if joined is None:
        return plan
    for what in ("num_steps", "scheduler"):
        made, here = (getattr(each, what) if each is not None else None for each in (joined.conditions, conditions))
        if made is not None and made != here:
            raise ConfigError(f"the plan '{joined.name}' was made for {what} = {made}, and these runs have {here}")
    return replace(plan, name=f"{joined.name or 'joined'}-{name}", passes=(*joined.passes, config))


def _judged(
    pipe: Any,
    plan: AccelerationPlan,
    sparse_steps: Sequence[int],
    target: float,
    draw: Callable[[], torch.Tensor],
    pictures: torch.Tensor,
) -> AttentionPoint:
    config = plan.passes[-1]
    assert isinstance(config, PAROAttentionConfig)
    with accelerated(pipe, plan):
        drawn = draw()
        effects = summary(pipe).denoisers[0].effects
    perceptual = [name for name in available_perceptual() if name == "st_lpips"]
    scores = differences(drawn, pictures, perceptual=perceptual)
    return AttentionPoint(
        target=target,
        density=float(np.average(config.densities().mean(1), weights=sparse_steps)),
        not_computed_frac=effects[config.type_name].actual_frac,
        psnr_db=float(np.mean(scores["psnr_db"])),
        worst_db=float(np.min(scores["psnr_db"])),
        st_lpips=float(np.mean(scores["st_lpips"])) if scores.get("st_lpips") else None,
    )


def _decides(config: Any) -> bool:
    return SCORES in pass_of(config).claims
