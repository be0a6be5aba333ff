"""TeaCache as the benchmarks had it before it was a pass: closures on the blocks, which count calls for themselves.

Shares no code with the runtime. It stays on the pipeline until ``undo``.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dit_accel.families import resolve_family
from dit_accel.families.source import stream_positions

ATTENTIONS = ("attn1", "attn")
STREAM = "hidden_states"


class _Modulated(Exception):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value


class _Branch:
    def __init__(self) -> None:
        self.modulated: torch.Tensor | None = None
        self.residual: torch.Tensor | None = None
        self.output: torch.Tensor | None = None
        self.distance = 0.0
        self.change = 0.0


class Skipper:
    """Takes the place of the blocks' ``forward`` of one denoiser of a pipeline.

    Args:
        pipe: The pipeline.
        threshold: Of the sum of predicted changes.
        predict: From the change of the input to that of the output.
        part: Name of the denoiser.
        start: Step of the run at which this denoiser takes over.

    Attributes:
        seen: Pairs of the input's and the output's relative change, of computed steps that follow computed ones.
        skipped: Calls whose blocks were skipped since the last start.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        threshold: float,
        predict: Callable[[float], float],
        part: str = "transformer",
        start: int = 0,
    ) -> None:
        self.pipe, self.threshold, self.predict, self.start = pipe, threshold, predict, start
        self.seen: list[tuple[float, float]] = []
        self.branches: dict[int, _Branch] = {}
        self.skipping = False
        self.skipped = 0
        self.calls = 0
        self.entered: torch.Tensor | None = None
        self._undo: list[Callable[[], None]] = []
        denoiser = getattr(pipe, part)
        family = resolve_family(denoiser)
        self._two_calls = family.guidance == "two_calls"
        self._patch(pipe.scheduler, "set_timesteps", self._begin)
        blocks = [(b, s.streams) for s in family.stacks for b in denoiser.get_submodule(s.path).children()]
        for index, (block, streams) in enumerate(blocks):
            self._wrap(block, streams, first=index == 0, last=index == len(blocks) - 1)
        self._patch(denoiser, "forward", self._call)

    def undo(self) -> None:
        for undo in reversed(self._undo):
            undo()

    @property
    def per_step(self) -> int:
        return 2 if self._two_calls and getattr(self.pipe, "do_classifier_free_guidance", False) else 1

    @property
    def branch(self) -> int:
        return (self.calls - 1) % self.per_step

    @property
    def step(self) -> int:
        return self.start + (self.calls - 1) // self.per_step

    def _patch(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        original, own = getattr(owner, name), vars(owner).get(name)

        @functools.wraps(original)
        def patched(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        setattr(owner, name, patched)
        self._undo.append(lambda: delattr(owner, name) if own is None else setattr(owner, name, own))

    def _begin(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.calls, self.branches, self.skipped = 0, {}, 0
        return original(*args, **kwargs)

    def _call(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        result = forward(*args, **kwargs)
        output = result[0]
        branch = self.branches[self.branch]
        self.skipped += self.skipping
        if not self.skipping:
            if branch.output is not None and self.threshold == 0.0:
                self.seen.append((branch.change, change(branch.output, output)))
            branch.output = output
        return result

    def _wrap(self, block: nn.Module, streams: tuple[str, ...], *, first: bool, last: bool) -> None:
        positions = stream_positions(block, streams)

        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            own = [kwargs[name] if name in kwargs else args[position] for position, name in positions]
            place = streams.index(STREAM)
            if first:
                self.entered = own[place]
                self.skipping = self._decide(block, original, args, kwargs)
            branch = self.branches[self.branch]
            if self.skipping:
                if first:
                    own[place] = own[place] + branch.residual
                return tuple(own) if len(own) > 1 else own[0]
            result = original(*args, **kwargs)
            if last:
                branch.residual = (result[place] if len(own) > 1 else result) - self.entered
            return result

        self._patch(block, "forward", forward)

    def _decide(self, block: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> bool:
        branch = self.branches.setdefault(self.branch, _Branch())
        before, branch.modulated = branch.modulated, _modulated_input(block, forward, args, kwargs)
        if before is not None:
            branch.change = change(before, branch.modulated)
            branch.distance += self.predict(branch.change)
        ends = self.step in (0, len(self.pipe.scheduler.timesteps) - 1)
        if ends or branch.residual is None or branch.distance >= self.threshold:
            branch.distance = 0.0
            return False
        return True


def _modulated_input(block: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> torch.Tensor:
    attention = next(getattr(block, name) for name in ATTENTIONS if hasattr(block, name))

    def leave(module: nn.Module, inside: Any, named: dict[str, Any]) -> None:
        raise _Modulated(named["hidden_states"] if "hidden_states" in named else inside[0])

    handle = attention.register_forward_pre_hook(leave, with_kwargs=True)
    try:
        forward(*args, **kwargs)
    except _Modulated as found:
        return found.value
    finally:
        handle.remove()
    raise RuntimeError(f"{type(block).__name__} did not call its attention")


def change(before: torch.Tensor, now: torch.Tensor) -> float:
    return float((now - before).abs().mean() / before.abs().mean().clamp_min(1e-12))
