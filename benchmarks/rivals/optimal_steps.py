"""Optimal steps (OSS), written by us after the paper: fewer steps of the plain solver, and the best of them.

A run of n steps takes n of the plain run's timesteps. For each sample they are found by dynamic programming on the
student's own states: z_k(j), the state after k steps that has come to timestep j, is reached from the z_(k-1)(i) that
lands closest to the plain run's state at j. One table has the answers for all n. The schedule that is used is the
median over samples, step by step.

The search runs inside the pipeline's own loop: it makes the list of timesteps longer, by one for each entry of the
table, and answers the loop's calls of the scheduler with the state that is to be evaluated next. So guidance, and
whatever else the pipeline does between two calls, is the pipeline's.

Departures: a sample is a batch (its errors are summed); and where the paper searches with Euler's method, here it is
the pipeline's solver, with the history that its path so far gives it. The paper's calibration of quantiles is left
out, since it is made to change the picture, and lowers fidelity to the plain run.
"""

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low
from types import SimpleNamespace
from typing import Any

import torch

from rivals.base import Rival, Setting, Task
from rivals.kept_outputs import computed_for_speed
from rivals.snapshot import Snapshot
from rivals.subset_of_steps import SCHEDULERS, Grid, take_only, twin

SPEEDS = (1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0)
ADVISED_STEPS = 10

Routes = dict[int, list[list[int]]]
"""Number of steps to the steps that are best, an entry a sample."""


class OptimalSteps(Rival):
    """The plain solver with fewer steps, chosen by dynamic programming."""

    name = "optimal steps"
    method = "OSS, arXiv 2503.21774"
    made_by = "our implementation of the paper"
    advice = "10 steps for FLUX.1-dev in the paper; taken as advice"

    def supports(self, pipe: Any) -> str | None:
        name, config = type(pipe.scheduler).__name__, pipe.scheduler.config
        if name not in SCHEDULERS:
            return f"our implementation cannot give {name} timesteps of our choice"
        if "sde" in config.get("algorithm_type", "") or config.get("stochastic_sampling", False):
            return "the sampler draws noise in every step, and the search compares single runs"
        return None

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        counts = _counts(task)
        advised = min(counts, key=lambda count: (abs(count - ADVISED_STEPS), count))
        return tuple(
            Setting(name=f"optimal steps n={n}", rival=self.name, params={"steps": n}, advised=n == advised)
            for n in counts
        )

    def prepare(self, pipe: Any, task: Task) -> None:
        task.learned(self.name, lambda: self._search(pipe, task))

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        self.prepare(pipe, task)
        learned, steps = task.memory[self.name], setting.params["steps"]

        def choose(num_steps: int) -> Sequence[int]:
            if num_steps != task.num_inference_steps:
                raise ValueError(f"the steps were chosen for {task.num_inference_steps}, this run has {num_steps}")
            route: list[int] = learned[str(steps)]
            return route

        take_only(pipe.scheduler, choose)

    def _search(self, pipe: Any, task: Task) -> dict[str, list[int]]:
        routes = best_routes(pipe, task, most=max(_counts(task)))
        return {str(steps): median_route(found) for steps, found in routes.items()}


def best_routes(pipe: Any, task: Task, most: int) -> Routes:
    """The best steps for every number of them up to ``most``, for every call of the pipeline in ``task.calibrate``."""
    snapshot = Snapshot(pipe)
    search = Search(pipe.scheduler, most)
    try:
        task.calibrate()
    finally:
        snapshot.restore()
    return dict(search.routes)


def median_route(routes: Sequence[Sequence[int]]) -> list[int]:
    """The median of each step over all samples; it rises strictly, as each of them does."""
    return [median_low(steps) for steps in zip(*routes, strict=True)]


@dataclass(slots=True)
class _State:
    """A path's end: where it is, and what its solver remembers.

    Attributes:
        route: Steps so far, the one that is to be taken from here included.
    """

    route: list[int]
    scheduler: Any
    latents: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    error: float = float("inf")


class Search:
    """Takes the place of the scheduler's methods in a pipeline's loop; ``Snapshot`` undoes it.

    Args:
        scheduler: One of ``SCHEDULERS``.
        most: Largest number of steps that is looked for.

    Attributes:
        routes: Filled by each run of the pipeline.
    """

    def __init__(self, scheduler: Any, most: int) -> None:
        self.scheduler, self.most = scheduler, most
        self.routes: Routes = defaultdict(list)
        self.original = original = scheduler.set_timesteps

        @functools.wraps(original)  # pipelines look up in these signatures what they take
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            return self._set_timesteps(*args, **kwargs)

        @functools.wraps(scheduler.step)
        def step(*args: Any, **kwargs: Any) -> Any:
            return self._step(*args, **kwargs)

        scheduler.set_timesteps, scheduler.step = set_timesteps, step

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> Any:
        result = self.original(*args, **kwargs)
        self.grid, self.plain = Grid(self.scheduler), twin(self.scheduler)
        count = len(self.grid)
        self.states = {0: _State([0], twin(self.scheduler))}
        self.reached: dict[int, _State] = {}
        self.reference: list[torch.Tensor] = []
        self.first_output = torch.empty(0)
        levels = range(1, min(self.most, count))
        self.nodes = [(0, step) for step in range(count)]
        self.nodes += [(level, step) for level in levels for step in range(level, count)]
        self.done = 0
        self.grid.restrict(self.scheduler, [*(step for _, step in self.nodes), count])
        return result

    def _step(self, output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """One evaluation of the loop; gives it the state of the next one."""
        kwargs["return_dict"], wants_object = False, kwargs.get("return_dict", True)
        level, step = self.nodes[self.done]
        self.done += 1
        if level == 0:
            following = self._follow_plain(step, output, timestep, sample, args, kwargs)
        else:
            self._leave(level, step, output, timestep, args, kwargs)
            following = self.reference[-1]
        if self.done < len(self.nodes):
            next_level, next_step = self.nodes[self.done]
            if next_level > level:
                self.states, self.reached = self.reached, {}
            if next_level:
                following = self.states[next_step].latents
            if hasattr(self.scheduler, "_step_index"):  # some scale the model's input by the noise level there
                self.scheduler._step_index = self.done
        return SimpleNamespace(prev_sample=following) if wants_object else (following,)

    def _follow_plain(
        self, step: int, output: torch.Tensor, timestep: Any, sample: torch.Tensor, args: Any, kwargs: Any
    ) -> torch.Tensor:
        """The plain run; its first evaluation is also that of all paths."""
        if step == 0:
            self.first_output, self.first_timestep = output, timestep
            self.states[0].latents = sample
            self.reference = [sample]
        following: torch.Tensor = self.plain.step(output, timestep, sample, *args, **kwargs)[0]
        self.reference.append(following)
        if step == len(self.grid) - 1:
            self._leave(0, 0, self.first_output, self.first_timestep, args, kwargs)
        return following

    def _leave(self, level: int, step: int, output: torch.Tensor, timestep: Any, args: Any, kwargs: Any) -> None:
        """Go from a state to all later timesteps, and keep what comes closest to the plain run there."""
        end, state = len(self.grid), self.states[step]
        for following in range(step + 1, end + 1) if level + 1 < self.most else (end,):
            solver = twin(state.scheduler)
            self.grid.restrict(solver, [*state.route, following])
            with self.grid.aimed(solver, step, following):
                latents = solver.step(output, timestep, state.latents, *args, **kwargs)[0]
            error = float((latents.double() - self.reference[following].double()).square().sum())
            if following not in self.reached or error < self.reached[following].error:
                self.reached[following] = _State([*state.route, following], solver, latents, error)
        if step == end - 1 or level == 0:
            self.routes[level + 1].append(self.reached[end].route[:-1])


def _counts(task: Task) -> tuple[int, ...]:
    """Numbers of steps of the sweep, most first."""
    counts = {*computed_for_speed(task.num_inference_steps, SPEEDS), ADVISED_STEPS}
    return tuple(sorted((count for count in counts if count < task.num_inference_steps), reverse=True))
