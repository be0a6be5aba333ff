"""MeanCache, written by us after the paper and the published inference code: mean velocities between chosen steps.

Some steps are computed. After a computed step each skipped step i goes on with

    v_i = v_(i-1) + (s_(i+1) - s_i) J,    J = (mean velocity from s_r to s_i - v_r) / (s_i - s_r),    r = i - span,

where s are noise levels, v the velocities that were used so far, and the mean velocity is the difference quotient of
the latents; J stands for the Jacobian-vector product that ties a mean velocity to the velocity at its start. With a
span of one step J is zero, and the last velocity is used again.

Which steps are computed and which span follows each is the cheapest path of a given number of edges through a graph
of all jumps. A jump costs |true mean velocity - predicted one|, averaged over recorded plain runs, to the power gamma.
As in the authors' schedules the first and the last step are computed, and spans reach up to six steps.

Departures: the authors know flow models and Euler steps. Diffusion models run in the variable that makes them so (see
``velocities.py``), and multistep solvers get the velocities in place of outputs, from which they then extrapolate on.
The costs are of the velocity after guidance, and of jumps from the plain run's own states.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from rivals.base import Rival, Setting, Task
from rivals.kept_outputs import Recording, answer_calls, computed_for_speed, on_step, record, reuse, why_not
from rivals.velocities import velocities_of, why_no_velocities

SPANS = (1, 2, 3, 4, 5, 6)
GAMMA = 4.0
SPEEDS = (1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0)
ADVISED_SPEED = 3.0  # the authors' 17 of 50 steps, the middle one of their three for Qwen-Image


class Jump(NamedTuple):
    """An edge: from a computed step to the next one, with a span for what is skipped between."""

    first: int
    last: int
    span: int


Costs = Sequence[tuple[int, int, int, float]]
"""Jump and its mean error."""


class MeanCache(Rival):
    """Mean velocities over skipped steps, from finite differences."""

    name = "MeanCache"
    method = "MeanCache, arXiv 2601.19961"
    made_by = "our implementation of the paper"
    advice = "B = 25, 17 or 10 of 50 steps on Qwen-Image, gamma = 4; the middle one, scaled, taken as advice"

    def supports(self, pipe: Any) -> str | None:
        return why_not(pipe) or why_no_velocities(pipe.scheduler)

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        advised = computed_for_speed(task.num_inference_steps, (ADVISED_SPEED,))
        return tuple(
            Setting(name=f"MeanCache B={count}", rival=self.name, params={"computed": count}, advised=count in advised)
            for count in computed_for_speed(task.num_inference_steps, SPEEDS)
        )

    def prepare(self, pipe: Any, task: Task) -> None:
        task.learned(self.name, lambda: jump_costs(pipe, task))

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        self.prepare(pipe, task)
        _Means(pipe, cheapest_path(task.memory[self.name], task.num_inference_steps, setting.params["computed"]))


def cheapest_path(costs: Costs, num_steps: int, computed: int, gamma: float = GAMMA) -> list[Jump]:
    """The ``computed - 1`` jumps from the first step to the last whose costs to the power gamma sum to least.

    Raises:
        ValueError: No path has so many jumps.
    """
    edges: dict[tuple[int, int], tuple[float, int]] = {}
    for first, last, span, cost in costs:
        edges[first, last] = min(edges.get((first, last), (float("inf"), 0)), (cost**gamma, span))
    best: dict[int, tuple[float, list[Jump]]] = {0: (0.0, [])}
    for _ in range(computed - 1):
        reached: dict[int, tuple[float, list[Jump]]] = {}
        for (first, last), (cost, span) in edges.items():
            if first in best:
                total = best[first][0] + cost
                if last not in reached or total < reached[last][0]:
                    reached[last] = (total, [*best[first][1], Jump(first, last, span)])
        best = reached
    if num_steps - 1 not in best:
        raise ValueError(f"no path computes {computed} of {num_steps} steps")
    return best[num_steps - 1][1]


def jump_costs(pipe: Any, task: Task) -> list[tuple[int, int, int, float]]:
    """The mean error of every jump, over the task's prompts for tuning."""
    sums: dict[Jump, float] = {}
    runs = 0

    def add(recording: Recording) -> None:
        nonlocal runs
        runs += 1
        at = velocities_of(pipe.scheduler)
        pairs = [
            (a.cpu().double(), b.cpu().double()) for a, b in zip(recording.outputs, recording.latents, strict=True)
        ]
        positions = [at.position(step, x) for step, (_, x) in enumerate(pairs)]
        speeds = [at.velocity(step, output, x) for step, (output, x) in enumerate(pairs)]
        for jump, cost in jump_errors(at.levels, positions, speeds).items():
            sums[jump] = sums.get(jump, 0.0) + cost

    record(pipe, task.calibrate, add)
    return [(*jump, cost / runs) for jump, cost in sums.items()]


def jump_errors(
    levels: Sequence[float], positions: Sequence[torch.Tensor], velocities: Sequence[torch.Tensor]
) -> dict[Jump, float]:
    """Mean absolute error of the mean velocity of every jump of one run."""
    errors: dict[Jump, float] = {}
    for first in range(len(levels) - 1):
        for span in SPANS[: max(1, first + 1)]:
            seen = list(positions[: first + 1])
            used = list(velocities[: first + 1])
            missed = torch.zeros_like(positions[0])
            for last in range(first + 1, len(levels)):
                errors[Jump(first, last, span)] = float((missed / (levels[last] - levels[first])).abs().mean())
                if last == len(levels) - 1:
                    break
                width = levels[last] - levels[last - 1]
                seen.append(seen[-1] + width * used[-1])
                used.append(next_velocity(levels, seen, used, span))
                missed = missed + (levels[last + 1] - levels[last]) * (used[-1] - velocities[last])
    return errors


def next_velocity(
    levels: Sequence[float], positions: Sequence[torch.Tensor], velocities: Sequence[torch.Tensor], span: int
) -> torch.Tensor:
    """The velocity of a skipped step.

    Args:
        levels: Noise level of each step of the run.
        positions: Of all steps so far, this one included.
        velocities: Of all steps before this one.
        span: Steps that the finite difference goes back; fewer where there are fewer.
    """
    step = len(velocities)
    start = max(0, step - span)
    if step - start == 1:
        return velocities[-1]
    width = levels[step] - levels[start]
    mean = (positions[step] - positions[start]) / width
    bend = (mean - velocities[start]) / width
    return velocities[-1] + (levels[step + 1] - levels[step]) * bend


class _Means:
    """Hands the scheduler predicted velocities at the steps between jumps."""

    def __init__(self, pipe: Any, path: Sequence[Jump]) -> None:
        self.scheduler = pipe.scheduler
        steps = {jump.first for jump in path} | {path[-1].last}
        self.computed = [step in steps for step in range(path[-1].last + 1)]
        self.spans = {step: jump.span for jump in path for step in range(jump.first + 1, jump.last)}
        self.at = velocities_of(pipe.scheduler)
        self.positions: list[torch.Tensor] = []
        self.velocities: list[torch.Tensor] = []
        self.trajectory = answer_calls(pipe, self.computed, reuse)
        on_step(pipe.scheduler, self._step)

    def _step(self, output: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        step = self.trajectory.step
        if step == 0:
            self.positions.clear()
            self.velocities.clear()
            self.at = velocities_of(self.scheduler)
        at, exact = self.at, latents.float()
        self.positions.append(at.position(step, exact))
        if self.computed[step]:
            self.velocities.append(at.velocity(step, output.float(), exact))
            return output
        self.velocities.append(next_velocity(at.levels, self.positions, self.velocities, self.spans[step]))
        return at.output(step, self.velocities[-1], exact).to(output.dtype)
