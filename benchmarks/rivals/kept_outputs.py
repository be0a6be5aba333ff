"""What rivals at the level of the denoiser's output share: recording plain runs, and answering calls without it.

A recording is one run of the pipeline: what the denoiser gave in each call, and what the scheduler was handed in each
step (guidance is over by then). Runs are handed on one by one, so that only one is ever kept.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dit_accel.families.pipeline import find_denoisers
from rivals.snapshot import Snapshot
from rivals.trajectory import Trajectory

Answer = Callable[[int, Sequence[torch.Tensor]], torch.Tensor]
"""Step and the computed outputs of the same guidance branch, oldest first, to the output of that step."""


@dataclass(slots=True)
class Recording:
    """One run.

    Attributes:
        calls: Guidance branch to the denoiser's outputs, one a step.
        latents: What the scheduler's step started from, one a step.
        outputs: What the scheduler was handed as the model's output, one a step.
    """

    calls: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    latents: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)


def record(pipe: Any, run: Callable[[], object], listen: Callable[[Recording], None]) -> None:
    """Let ``run`` run the plain pipeline any number of times; ``listen`` hears of each of its runs when it is over."""
    recording = Recording()

    def over() -> None:
        nonlocal recording
        if recording.outputs:
            listen(recording)
        recording = Recording()

    def around(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = forward(*args, **kwargs)
        recording.calls.setdefault(trajectory.branch, []).append(output[0])
        return output

    def note(output: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        recording.outputs.append(output)
        recording.latents.append(latents)
        return output

    snapshot = Snapshot(pipe)
    trajectory = Trajectory(pipe, over)
    trajectory.wrap(around)
    on_step(pipe.scheduler, note)
    try:
        run()
        over()
    finally:
        snapshot.restore()


def answer_calls(pipe: Any, computed: Sequence[bool], answer: Answer) -> Trajectory:
    """Call the denoiser at the computed steps only; at all others ``answer`` speaks for it.

    Args:
        pipe: A pipeline with one denoiser; ``Snapshot`` undoes what is done to it.
        computed: One a step; the first is computed.
        answer: See :data:`Answer`.

    Returns:
        What counts the steps.
    """
    kept: dict[int, list[torch.Tensor]] = {}
    last: dict[int, Any] = {}

    def start() -> None:
        kept.clear()
        last.clear()

    def around(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        step, branch = trajectory.step, trajectory.branch
        if step >= len(computed):
            raise ValueError(f"this was set up for {len(computed)} steps; the run has more")
        if computed[step]:
            last[branch] = output = forward(*args, **kwargs)
            kept.setdefault(branch, []).append(output[0])
            return output
        return _with_first(last[branch], answer(step, kept[branch]))

    trajectory = Trajectory(pipe, start)
    trajectory.wrap(around)
    return trajectory


def on_step(scheduler: Any, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """Let ``change(model_output, latents)`` give the model's output that the scheduler really takes."""
    original = scheduler.step

    @functools.wraps(original)  # pipelines look up in its signature which arguments it takes
    def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return original(change(model_output, sample), timestep, sample, *args, **kwargs)

    scheduler.step = step


def reuse(step: int, kept: Sequence[torch.Tensor]) -> torch.Tensor:
    """The last computed output again."""
    return kept[-1]


def why_not(pipe: Any) -> str | None:
    """``None``, or why denoiser calls of this pipeline cannot be left out in this way."""
    if len(find_denoisers(pipe)) > 1:
        return "our implementation is for pipelines with one denoiser"
    if getattr(pipe.scheduler, "order", 1) != 1:
        return "our implementation is for schedulers with one evaluation a step"
    return None


def computed_for_speed(num_steps: int, speeds: Sequence[float]) -> tuple[int, ...]:
    """How many steps of ``num_steps`` to compute for each of these speed-ups, without repetitions, most first."""
    counts = {max(2, round(num_steps / speed)) for speed in speeds}
    return tuple(sorted((count for count in counts if count < num_steps), reverse=True))


def _with_first(output: Any, value: torch.Tensor) -> Any:
    """A denoiser's output of the same kind with another first entry."""
    if isinstance(output, tuple):
        return (value, *output[1:])
    names = list(output)
    return type(output)(**{**dict(output), names[0]: value})
