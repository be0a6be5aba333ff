"""SmoothCache, written by us after the paper: a schedule for each kind of module, from how fast its outputs change.

Calibration runs the plain pipeline and records, for each kind of module (self-attention, feed-forward, ...), the error
of answering step i + k with the output of step i: |y_i - y_(i+k)|_1 / |y_(i+k)|_1, averaged over blocks, guidance
branches and prompts. The rule then goes through the steps: from a computed step i, the outputs are reused for the
largest k <= K whose error, like those of all smaller k, is below alpha. All modules of a kind share one schedule.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dit_accel.families.pipeline import find_denoisers
from dit_accel.families.targets import find_targets
from dit_accel.schedules import Schedule
from dit_accel.schedules.solvers import Errors, smooth_schedule
from rivals.base import Setting, Task
from rivals.scheduled import Scheduled
from rivals.snapshot import Snapshot
from rivals.trajectory import Trajectory
from rivals.work import LEAF_KINDS

MAX_SKIP = 3  # K, as in the authors' code
ALPHAS = (0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5)
ADVISED_ALPHA = 0.18


class SmoothCache(Scheduled):
    """Static schedules from calibrated error curves."""

    name = "SmoothCache"
    method = "Liu et al., arXiv 2411.10510"
    made_by = "our implementation of the paper's rule, on our engine"
    advice = "alpha from 0.08 to 0.35 on DiT-XL/2, to be chosen for each model; 0.18 taken as advice, K = 3"

    def supports(self, pipe: Any) -> str | None:
        if len(find_denoisers(pipe)) > 1:
            return "calibration is written for pipelines with one denoiser"
        return None if _sites(pipe) else "it has no attention or feed-forward whose output can be kept"

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        return tuple(
            Setting(
                name=f"SmoothCache alpha={alpha}",
                rival=self.name,
                params={"alpha": alpha, "max_skip": MAX_SKIP},
                advised=alpha == ADVISED_ALPHA,
            )
            for alpha in ALPHAS
        )

    def prepare(self, pipe: Any, task: Task) -> None:
        task.learned(self.name, lambda: error_curves(pipe, task.calibrate))

    def schedule(self, pipe: Any, setting: Setting, task: Task) -> Schedule:
        self.prepare(pipe, task)
        return smooth_schedule(task.memory[self.name], _sites(pipe), **setting.params)


def error_curves(pipe: Any, run: Callable[[], object]) -> Errors:
    """Record the changes of outputs while ``run`` runs the plain pipeline, any number of times."""
    recorder = _Recorder()
    snapshot = Snapshot(pipe)
    trajectory = recorder.trajectory = Trajectory(pipe, recorder.start)
    trajectory.wrap(lambda forward, args, kwargs: forward(*args, **kwargs))
    for target in find_targets(pipe):
        for site in target.layout.sites:
            if site.info.kind in LEAF_KINDS:
                module = target.denoiser.get_submodule(site.path)
                module.register_forward_hook(recorder.hook(site.info.id, site.info.kind))
    try:
        run()
    finally:
        snapshot.restore()
    return recorder.curves()


class _Recorder:
    """Keeps the last outputs of every module and branch, and sums up their differences."""

    def __init__(self) -> None:
        self.trajectory: Trajectory | None = None
        self.num_steps = 0
        self._kept: dict[tuple[str, int], list[torch.Tensor]] = defaultdict(list)
        self._sums: dict[str, dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0]))

    def start(self) -> None:
        self._kept.clear()

    def hook(self, site: str, kind: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            assert self.trajectory is not None
            step, key = self.trajectory.step, (site, self.trajectory.branch)
            self.num_steps = max(self.num_steps, step + 1)
            own = torch.cat([part.flatten() for part in (output if isinstance(output, tuple) else (output,))])
            kept = self._kept[key]
            for back, earlier in enumerate(reversed(kept), start=1):
                error = _norm(earlier - own) / max(_norm(own), 1e-12)
                entry = self._sums[kind][(step - back, back)]
                entry[0], entry[1] = entry[0] + error, entry[1] + 1
            kept.append(own)
            del kept[:-MAX_SKIP]

        return record

    def curves(self) -> Errors:
        return {
            kind: [
                [
                    round(sums[(step, back)][0] / sums[(step, back)][1], 6)
                    for back in range(1, MAX_SKIP + 1)
                    if step + back < self.num_steps
                ]
                for step in range(self.num_steps)
            ]
            for kind, sums in self._sums.items()
        }


def _norm(values: torch.Tensor) -> float:
    return float(values.abs().sum(dtype=torch.float32))


def _sites(pipe: Any) -> dict[str, str]:
    layouts = [target.layout for target in find_targets(pipe)]
    return {
        site.info.id: site.info.kind for layout in layouts for site in layout.sites if site.info.kind in LEAF_KINDS
    }
