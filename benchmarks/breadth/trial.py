"""One pipeline's trial: plain, each preset, and undone."""

import re
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

import dit_accel
from breadth.checkout import Subject, TinyPipeline, arrays, same, set_up
from dit_accel.errors import AccelerationWarning, DitAccelError
from dit_accel.families import resolve_family
from dit_accel.families.pipeline import find_denoisers

PRESETS = ("lossless", "balanced", "fast")
SLOW_S = 10.0  # setting up and one run
Status = Literal["works", "idle", "refused", "crashed", "wrong", "not set up"]


@dataclass(slots=True, kw_only=True)
class PresetTrial:
    """What one preset did.

    Attributes:
        outcome: ``ran``, ``refused`` or ``crashed``.
        reason: Why not ``ran``.
        equal: Whether the output is bit-equal to the plain pipeline's.
        finite_as_plain: Whether it has no more NaN and infinities than the plain output.
        planned: Module calls that the steps of the run make without a plan, over all denoisers.
        saved: How many of them were answered from kept values or read by nobody.
        undone: Whether no attribute, hook or module is left.
        undone_equal: Whether the output after undo is bit-equal to the plain pipeline's; of a slow pipeline this is
            asked after the last preset only.
        warnings: What the library said, once each.
        notes: What it says of each denoiser in ``summary``.
    """

    outcome: str = "ran"
    reason: str = ""
    equal: bool | None = None
    finite_as_plain: bool | None = None
    planned: int = 0
    saved: int = 0
    undone: bool | None = None
    undone_equal: bool | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Trial:
    """What became of one pipeline class.

    Attributes:
        pipeline: The class.
        status: ``works``: every preset runs, ``lossless`` is bit-equal, the others skip work, undo is exact. ``idle``:
            all of that, but a faster preset skipped nothing. ``wrong``: an output or the undo is not as promised.
        reason: In words, where the status is not ``works``.
        denoisers: Component, class and family of each denoiser.
        deterministic: Whether two plain runs are bit-equal.
        steps: What the call was asked for; empty: what the test asks for.
        presets: By name.
    """

    pipeline: str
    status: Status
    reason: str = ""
    denoisers: list[tuple[str, str, str]] = field(default_factory=list)
    deterministic: bool | None = None
    steps: dict[str, Any] = field(default_factory=dict)
    presets: dict[str, PresetTrial] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def try_pipeline(subject: Subject) -> Trial:
    """Run one pipeline plain, under each preset, and undone after each."""
    warnings.simplefilter("ignore")
    try:
        began = time.monotonic()
        tiny, plain = set_up(subject)
    except Exception as error:
        return Trial(pipeline=subject.name, status="not set up", reason=said(error))
    took = time.monotonic() - began
    first = marks(tiny.pipe)
    trial = Trial(pipeline=subject.name, status="works", deterministic=same(plain, tiny.run()), steps=tiny.steps)
    trial.denoisers = _denoisers(tiny.pipe)
    before = _steady(first, marks(tiny.pipe))
    for name in PRESETS:
        found = trial.presets[name] = _try_preset(tiny, name, plain, before, bool(trial.deterministic))
        if took < SLOW_S or name == PRESETS[-1]:
            _run_undone(tiny, found, plain, bool(trial.deterministic))
    trial.status, trial.reason = _verdict(trial)
    return trial


def _try_preset(tiny: TinyPipeline, name: str, plain: Any, before: dict[str, Any], deterministic: bool) -> PresetTrial:
    found = PresetTrial()
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            dit_accel.accelerate_pipeline(tiny.pipe, name)
            output = tiny.run()
    except Exception as error:
        # Only a refusal while applying is one; an error of ours in mid-run is a crash, whatever its class.
        refused = isinstance(error, DitAccelError) and not dit_accel.is_accelerated(tiny.pipe)
        found.outcome, found.reason = ("refused" if refused else "crashed"), said(error)
        output = None
    found.warnings = sorted({said(w.message) for w in heard if issubclass(w.category, AccelerationWarning)})
    if output is not None:
        found.equal = same(plain, output) if deterministic else None
        found.finite_as_plain = _broken(output) <= _broken(plain)
    if dit_accel.is_accelerated(tiny.pipe):
        for denoiser in dit_accel.summary(tiny.pipe).denoisers:
            run = denoiser.last_run
            if run is not None:
                saved = run.planned_saved if run.actual_saved is None else run.actual_saved
                found.planned += run.site_calls
                found.saved += saved
        found.notes = _notes(tiny.pipe)
        dit_accel.remove_acceleration(tiny.pipe)
    after = marks(tiny.pipe)
    found.undone = all(after.get(place) == mark for place, mark in before.items())
    return found


def _run_undone(tiny: TinyPipeline, found: PresetTrial, plain: Any, deterministic: bool) -> None:
    try:
        found.undone_equal = same(plain, tiny.run()) if deterministic else None
    except Exception as error:
        found.undone_equal, found.reason = False, f"after undo: {said(error)}"


def _notes(pipe: Any) -> list[str]:
    text = str(dit_accel.summary(pipe))
    return [no_paths(line.strip()) for line in text.splitlines() if "left out" in line or "started anew" in line]


def _verdict(trial: Trial) -> tuple[Status, str]:
    tried = trial.presets
    for status in ("crashed", "refused"):
        for name, preset in tried.items():
            if preset.outcome == status:
                return status, f"{name}: {preset.reason}" if status == "crashed" else preset.reason  # type: ignore
    wrong = []
    for name, preset in tried.items():
        if name == "lossless" and preset.equal is False:
            wrong.append("lossless is not bit-equal to plain")
        if preset.finite_as_plain is False:
            wrong.append(f"{name} gives values that are not finite")
        if preset.undone is False:
            wrong.append(f"{name} leaves something behind after undo")
        if preset.undone_equal is False:
            wrong.append(f"{name} changes the output after undo" + (f" ({preset.reason})" if preset.reason else ""))
    if wrong:
        return "wrong", "; ".join(wrong)
    idle = [name for name, preset in tried.items() if name != "lossless" and not preset.saved]
    if idle:
        return "idle", "; ".join(
            f"{name} skipped nothing: {' '.join(tried[name].warnings) or 'in silence'}" for name in idle
        )
    return "works", ""


def _denoisers(pipe: Any) -> list[tuple[str, str, str]]:
    try:
        found = find_denoisers(pipe)
    except DitAccelError:
        return []
    rows = []
    for name, module in found:
        try:
            family = resolve_family(module).name
        except DitAccelError:
            family = ""
        rows.append((name, type(module).__name__, family))
    return rows


def _broken(output: Any) -> int:
    return sum(int((~np.isfinite(a)).sum()) for a in arrays(output) if a.dtype.kind == "f")


def marks(pipe: Any) -> dict[str, Any]:
    """What acceleration could leave behind: attributes, methods set on instances, hooks, modules, parameters."""
    found: dict[str, Any] = {"pipe": sorted(vars(pipe))}
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            for path, module in part.named_modules(prefix=name):
                found[path] = _marks_of_module(module)
            found[f"{name}.state_dict"] = list(part.state_dict())
        elif hasattr(part, "set_timesteps"):
            # What a run leaves on a scheduler differs from run to run; which methods it has may not.
            found[name] = (type(part), sorted(k for k, v in vars(part).items() if callable(v)))
    return found


def _steady(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The marks that a plain run does not change by itself (OmniGen makes a buffer anew)."""
    return {place: mark for place, mark in second.items() if first.get(place) == mark}


def _marks_of_module(module: nn.Module) -> tuple[Any, ...]:
    own = vars(module)
    methods = {key: _identity(value) for key, value in own.items() if callable(value)}
    held = [[(k, id(v)) for k, v in own[key].items()] for key in ("_modules", "_parameters", "_buffers")]
    hooks = [len(own[key]) for key in ("_forward_hooks", "_forward_pre_hooks")]
    return (type(module), sorted(own), methods, held, hooks)


def _identity(value: Any) -> Any:
    """A bound method is made anew at every look; its function and its object are not."""
    function = getattr(value, "__func__", None)
    return id(value) if function is None else (id(function), id(value.__self__))


def said(error: Any) -> str:
    """An error or a warning in one line, without paths of this machine; where of ours it came from, if it did."""
    text = no_paths(" ".join(str(error).split()))[:600]
    if not isinstance(error, Exception) or isinstance(error, Warning | DitAccelError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    place = f" [{Path(last.filename).name}:{last.lineno}]" if last else ""
    return f"{type(error).__name__}: {text}{place}"


def no_paths(text: str) -> str:
    """The last part of every absolute path in a text."""
    return re.sub(r"(?<![\w.:/])(?:/[\w.+@-]+)+/([\w.+@-]+)", r"\1", text)
