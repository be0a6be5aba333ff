"""T-GATE as its authors do it, written by us after the paper: after the gate, no cross-attention and no guidance.

Before the gate, self-attention is computed at every step of the warm-up and then every k-th step. At the last step
before the gate the cross-attention outputs of the two guidance halves are averaged and kept. From then on they answer
for cross-attention, and the denoiser runs on the unconditional half alone: its output stands for both halves, which is
the same as dropping guidance. Where guidance takes two calls, the second one is answered with the first one's output.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.pipeline import find_denoisers
from dit_accel.families.targets import find_targets
from rivals.base import Rival, Setting, Task
from rivals.scheduled import needs_cross_attention, tgate_advice, tgate_note
from rivals.trajectory import Trajectory

PAPER_STEPS = 25
SWEEP = ((20, 1), (15, 1), (15, 3), (10, 1), (10, 5))  # gate of PAPER_STEPS, interval of self-attention


class TGate(Rival):
    """Cross-attention kept, guidance dropped, from a gate step on."""

    name = "T-GATE"
    method = "Liu et al., arXiv 2404.02747"
    made_by = "our implementation of the paper"
    advice = "of 25 steps: gate 15, interval 3 for PixArt, gate 10, interval 5 for UNets; warm-up 2 (authors' README)"

    def supports(self, pipe: Any) -> str | None:
        if len(find_denoisers(pipe)) > 1:
            return "our implementation is for pipelines with one denoiser"
        return needs_cross_attention(pipe)

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        chosen = []
        for gate_of_25, interval in SWEEP:
            gate = max(2, round(gate_of_25 * task.num_inference_steps / PAPER_STEPS))
            chosen.append(
                Setting(
                    name=f"T-GATE m={gate} k={interval}",
                    rival=self.name,
                    params={"gate": gate, "sp_interval": interval, "warmup": 2},
                    advised=(gate_of_25, interval) == tgate_advice(pipe),
                    note=tgate_note(pipe),
                )
            )
        return tuple(chosen)

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        _Gate(pipe, **setting.params)


class _Gate:
    """Takes the place of the denoiser's and its attentions' ``forward``."""

    def __init__(self, pipe: Any, *, gate: int, sp_interval: int, warmup: int) -> None:
        self.gate, self.sp_interval, self.warmup = gate, sp_interval, warmup
        self.trajectory = Trajectory(pipe, self._start)
        self.kept: dict[tuple[str, int], torch.Tensor] = {}
        self.output: Any = None
        self.samples = 0
        target = find_targets(pipe)[0]
        for site in target.layout.sites:
            module = target.denoiser.get_submodule(site.path)
            if site.info.kind == "cross_attn":
                self._wrap(module, site.path, self._cross_attention)
            elif site.info.kind == "self_attn":
                self._wrap(module, site.path, self._self_attention)
        self._watch(pipe.scheduler)
        self.trajectory.wrap(self._denoise)

    def _start(self) -> None:
        self.kept.clear()

    def _watch(self, scheduler: Any) -> None:
        """Learn how many samples there are: with guidance in one batch the denoiser sees twice as many."""
        original = scheduler.step

        @functools.wraps(original)
        def step(model_output: Any, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.samples = len(sample)
            return original(model_output, timestep, sample, *args, **kwargs)

        scheduler.step = step

    def _wrap(self, module: nn.Module, path: str, answer: Callable[..., Any]) -> None:
        module.forward = functools.partial(answer, path, module.forward)  # type: ignore[method-assign]

    @property
    def _gated(self) -> bool:
        return self.trajectory.step >= self.gate

    def _denoise(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._gated:
            return forward(*args, **kwargs)
        if self.trajectory.branch == 1:
            return self.output
        batch = _batch(args, kwargs)
        if batch == 2 * self.samples:
            args, kwargs = _first_half(args, batch), _first_half(kwargs, batch)
            output = forward(*args, **kwargs)
            if isinstance(output, tuple):
                return (torch.cat([output[0], output[0]]), *output[1:])
            output[0] = torch.cat([output[0], output[0]])
            return output
        self.output = forward(*args, **kwargs)
        return self.output

    def _cross_attention(self, path: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        branch = self.trajectory.branch
        if not self._gated:
            output = forward(*args, **kwargs)
            if self.trajectory.step == self.gate - 1:
                self.kept[(path, branch)] = output
            return output
        kept = [self.kept[key] for key in ((path, 0), (path, 1)) if key in self.kept]
        if len(kept) == 1 and len(kept[0]) == 2 * self.samples:
            kept = list(kept[0].chunk(2))
        return sum(kept[1:], start=kept[0]) / len(kept)

    def _self_attention(self, path: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        step, key = self.trajectory.step, (path, self.trajectory.branch)
        if self._gated or step <= self.warmup or step % self.sp_interval == 0:
            output = forward(*args, **kwargs)
            if not self._gated:
                self.kept[key] = output
            return output
        return self.kept[key]


def _batch(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Size of the batch that a denoiser was called with: its first tensor is the latents."""
    return len(next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)))


def _first_half(value: Any, batch: int) -> Any:
    """Every tensor of that batch cut to its first half: the pipelines put the unconditional one first."""
    if isinstance(value, torch.Tensor):
        return value[: batch // 2] if value.dim() and len(value) == batch else value
    if isinstance(value, tuple):
        return tuple(_first_half(each, batch) for each in value)
    if isinstance(value, dict):
        return {key: _first_half(each, batch) for key, each in value.items()}
    return value
