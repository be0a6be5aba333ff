"""TeaCache, written by us after the paper and calibrated on each model, as its authors calibrate theirs.

The input of the first block after its modulation, m, tells how much the next output will change: with d the relative
L1 change of m since the last step, a polynomial p of degree 4 predicts the relative change of the output. The p(d) add
up; while the sum is below a threshold the blocks are skipped, and what they added to the residual stream at the last
computed step is added again. The first and the last step are always computed.

Departures: m is taken where the first attention reads it, so one code serves PixArt, FLUX and Wan. The polynomial is
fitted by least squares to this model at this number of steps, and clipped at zero.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from dit_accel.families import resolve_family
from dit_accel.families.pipeline import find_denoisers
from dit_accel.families.source import stream_positions
from rivals.base import Rival, Setting, Task
from rivals.snapshot import Snapshot
from rivals.trajectory import Trajectory

DEGREE = 4
THRESHOLDS = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8)
ADVISED = 0.25
ATTENTIONS = ("attn1", "attn")  # the first attention of a block, by family
STREAM = "hidden_states"


class TeaCache(Rival):
    """Skips all blocks while the predicted change of the output is small."""

    name = "TeaCache"
    method = "Liu et al., arXiv 2411.19108"
    made_by = "our implementation, calibrated by us"
    advice = "thresholds 0.25 to 0.8 on FLUX.1-dev (authors' README); 0.25, their mildest, taken as advice"

    def supports(self, pipe: Any) -> str | None:
        found = find_denoisers(pipe)
        if len(found) > 1:
            return "the rule is written for pipelines with one denoiser"
        stacks = resolve_family(found[0][1]).stacks
        if not stacks or any(STREAM not in stack.streams for stack in stacks):
            return "TeaCache skips a plain stack of transformer blocks, and this model is none (a UNet has skips)"
        return None

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        return tuple(
            Setting(
                name=f"TeaCache l={threshold}",
                rival=self.name,
                params={"threshold": threshold},
                advised=threshold == ADVISED,
            )
            for threshold in THRESHOLDS
        )

    def prepare(self, pipe: Any, task: Task) -> None:
        task.learned(self.name, lambda: self._fit(pipe, task))

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        self.prepare(pipe, task)
        polynomial = np.poly1d(task.memory[self.name]["coefficients"])
        _Skipper(pipe, threshold=setting.params["threshold"], predict=lambda d: max(0.0, float(polynomial(d))))

    def _fit(self, pipe: Any, task: Task) -> dict[str, Any]:
        snapshot = Snapshot(pipe)
        skipper = _Skipper(pipe, threshold=0.0, predict=lambda d: float("inf"))
        try:
            task.calibrate()
        finally:
            snapshot.restore()
        inputs, outputs = np.array(skipper.seen).T
        coefficients = np.polyfit(inputs, outputs, DEGREE)
        residual = float(((np.polyval(coefficients, inputs) - outputs) ** 2).sum())
        spread = float(((outputs - outputs.mean()) ** 2).sum())
        return {"coefficients": coefficients.tolist(), "r2": round(1 - residual / max(spread, 1e-12), 4)}


class _Modulated(Exception):
    """Leaves a block as soon as the input of its attention is known."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value


class _Branch:
    """What is kept for one guidance branch."""

    def __init__(self) -> None:
        self.modulated: torch.Tensor | None = None
        self.residual: torch.Tensor | None = None
        self.output: torch.Tensor | None = None
        self.distance = 0.0
        self.change = 0.0


class _Skipper:
    """Takes the place of the blocks' ``forward``.

    Attributes:
        seen: Pairs of the input's and the output's relative change, of computed steps that follow computed ones.
    """

    def __init__(self, pipe: Any, *, threshold: float, predict: Callable[[float], float]) -> None:
        self.threshold, self.predict = threshold, predict
        self.seen: list[tuple[float, float]] = []
        self.trajectory = Trajectory(pipe, self._start)
        self.branches: dict[int, _Branch] = {}
        self.skipping = False
        self.entered: torch.Tensor | None = None
        denoiser = self.trajectory.denoiser
        stacks = resolve_family(denoiser).stacks
        blocks = [(b, stack.streams) for stack in stacks for b in denoiser.get_submodule(stack.path).children()]
        for index, (block, streams) in enumerate(blocks):
            self._wrap(block, streams, first=index == 0, last=index == len(blocks) - 1)
        self.trajectory.wrap(self._call)

    def _start(self) -> None:
        self.branches = {}

    def _call(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = forward(*args, **kwargs)
        output = result[0]
        branch = self.branches[self.trajectory.branch]
        if not self.skipping:
            if branch.output is not None and self.threshold == 0.0:
                self.seen.append((branch.change, _change(branch.output, output)))
            branch.output = output
        return result

    def _wrap(self, block: nn.Module, streams: tuple[str, ...], *, first: bool, last: bool) -> None:
        original = block.forward
        positions = stream_positions(block, streams)

        def forward(*args: Any, **kwargs: Any) -> Any:
            own = [kwargs[name] if name in kwargs else args[position] for position, name in positions]
            place = streams.index(STREAM)
            if first:
                self.entered = own[place]
                self.skipping = self._decide(block, original, args, kwargs)
            branch = self.branches[self.trajectory.branch]
            if self.skipping:
                if first:
                    own[place] = own[place] + branch.residual
                return tuple(own) if len(own) > 1 else own[0]
            result = original(*args, **kwargs)
            if last:
                branch.residual = (result[place] if len(own) > 1 else result) - self.entered
            return result

        block.forward = forward  # type: ignore[method-assign]

    def _decide(
        self, block: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        branch = self.branches.setdefault(self.trajectory.branch, _Branch())
        modulated = _modulated_input(block, forward, args, kwargs)
        before, branch.modulated = branch.modulated, modulated
        if before is not None:
            branch.change = _change(before, modulated)
            branch.distance += self.predict(branch.change)
        ends = self.trajectory.step in (0, self.trajectory.num_steps - 1)
        if ends or branch.residual is None or branch.distance >= self.threshold:
            branch.distance = 0.0
            return False
        return True


def _modulated_input(
    block: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.Tensor:
    attention = next(getattr(block, name) for name in ATTENTIONS if hasattr(block, name))

    def leave(module: nn.Module, inside: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _Modulated(named["hidden_states"] if "hidden_states" in named else inside[0])

    handle = attention.register_forward_pre_hook(leave, with_kwargs=True)
    try:
        forward(*args, **kwargs)
    except _Modulated as found:
        return found.value
    finally:
        handle.remove()
    raise RuntimeError(f"{type(block).__name__} did not call its attention")


def _change(before: torch.Tensor, now: torch.Tensor) -> float:
    """Relative L1 distance."""
    return float((now - before).abs().mean() / before.abs().mean().clamp_min(1e-12))
