"""What the denoiser of a pipeline costs in a run: seconds by the clock, and multiply-accumulates by its plan."""

import inspect
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import nn

from dit_accel.families import resolve_family
from dit_accel.families.macs import MacsReport, count_macs
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.schedules.lowering import REUSE, SKIP
from dit_accel.session.session import Session


class DenoiserMeter:
    """A ``with`` block in which the calls of a denoiser are timed; the gate of an accelerated one is timed with it.

    Args:
        denoiser: The module that the pipeline calls.

    Attributes:
        seconds: Time spent in the denoiser so far.
        calls: Number of calls so far.
        inputs: Keyword arguments of the first call.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser
        self.seconds = 0.0
        self.calls = 0
        self.inputs: dict[str, Any] | None = None
        self._started = 0.0
        self._handles: list[Any] = []

    def __enter__(self) -> "DenoiserMeter":
        self._handles = [
            self.denoiser.register_forward_pre_hook(self._enter, with_kwargs=True),
            self.denoiser.register_forward_hook(self._leave),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.inputs is None:
            self.inputs = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
        _synchronize()
        self._started = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        _synchronize()
        self.seconds += time.perf_counter() - self._started
        self.calls += 1


class OverheadMeter:
    """Times what surrounds the denoisers' own ``forward`` in accelerated eager denoisers: clock, tracks, books.

    Measured as the difference of two clocks in the same call, it is free of the drift between separate runs.

    Args:
        session: Of the accelerated pipeline; its denoisers are measured in a ``with`` block.

    Attributes:
        inner_s: Seconds inside the denoisers' own ``forward`` so far.
    """

    def __init__(self, session: Session) -> None:
        self.inner_s = 0.0
        self._gates = [runtime.gate for runtime in session.runtimes]
        self._originals: list[Callable[..., Any]] = []

    def __enter__(self) -> "OverheadMeter":
        self._originals = [gate.original for gate in self._gates]
        for gate in self._gates:
            gate.original = partial(self._timed, gate.original)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for gate, original in zip(self._gates, self._originals, strict=True):
            gate.original = original

    def _timed(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        output = original(*args, **kwargs)
        _synchronize()
        self.inner_s += time.perf_counter() - start
        return output


def call_macs(denoiser: nn.Module, inputs: Mapping[str, Any]) -> MacsReport:
    """Multiply-accumulates of one plain call with these inputs, in total and for each site."""
    return count_macs(denoiser, resolve_family(denoiser).bind(denoiser), inputs)


def run_macs(runtime: DenoiserRuntime, macs: MacsReport, *, linear: bool = False) -> int:
    """Multiply-accumulates of a denoiser in the last run, by the rows that were executed; guidance calls included.

    Args:
        runtime: Of the denoiser, after a run.
        macs: Cost of one plain call with the inputs of that run.
        linear: Leave out attention products.
    """
    total = 0
    for actions, count in runtime.stats.executed.items():
        idle = {site.id for site, action in zip(runtime.graph, actions, strict=True) if action in (REUSE, SKIP)}
        total += count * macs.without(runtime.graph, idle, linear=linear)
    return total


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
