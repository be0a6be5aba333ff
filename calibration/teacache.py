"""Fits TeaCache's polynomial to a model: from how much the first block's input changes to how much the output does.

The authors fit one for each model by least squares, of degree 4, to runs in which everything is computed (Liu et al.,
arXiv 2411.19108, section 3.3). So do we, over all guidance branches, one for each denoiser.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dit_accel.api import accelerated
from dit_accel.errors import ConfigError
from dit_accel.passes.teacache import Coefficients, TeaCacheConfig
from dit_accel.passes.thresholds import relative_change
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.trees import leaves
from dit_accel.session.session import session_of

DEGREE = 4


def fit_teacache(
    pipe: Any, run: Callable[[], object], *, threshold: float = 0.25, scheduler: Any = None
) -> TeaCacheConfig:
    """Watch a pipeline draw, and fit TeaCache's polynomial to what it did.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it, at the steps, size and guidance that it will be used with: some ten prompts that are not
            those it is judged by. Everything is computed, so the pictures are the plain ones.
        threshold: Of the config that is returned; it does not change the fit.
        scheduler: The scheduler of a bare denoiser.

    Returns:
        The config, with ``r2`` (of the worst denoiser, if there are several) and ``num_steps`` of the runs.

    Raises:
        ConfigError: ``run`` made too few denoiser calls to fit to, or what it made is not finite.
        UnsupportedModelError: TeaCache cannot act on this pipeline.
    """
    watching = TeaCacheConfig(threshold=0.0, coefficients=(0.0,))
    with accelerated(pipe, watching, scheduler=scheduler):
        session = session_of(pipe)
        assert session is not None
        watchers = {runtime.name: _Watcher() for runtime in session.runtimes}
        for runtime in session.runtimes:
            runtime.around(watchers[runtime.name], by="calibration")
        run()
    fits = {name: _fit(name, watcher.seen) for name, watcher in watchers.items()}
    steps = set().union(*(watcher.num_steps for watcher in watchers.values()))
    found = {name: coefficients for name, (coefficients, _) in fits.items()}
    return TeaCacheConfig(
        threshold=threshold,
        coefficients=found if len(found) > 1 else next(iter(found.values())),
        num_steps=steps.pop() if len(steps) == 1 else None,
        r2=min(r2 for _, r2 in fits.values()),
    )


class _Watcher:
    """Sees every call of a denoiser.

    Attributes:
        seen: Relative change of the input and of the output, of calls that follow another one of their branch.
        num_steps: Of the runs.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []
        self.num_steps: set[int] = set()
        self._outputs: dict[Any, torch.Tensor] = {}
        self._run = -1

    def __call__(self, call: Call, inner: Inner) -> Any:
        result = inner(call)
        if call.run.number != self._run:
            self._run, self._outputs = call.run.number, {}
        self.num_steps.add(call.run.num_steps)
        output = leaves(result)[0]
        before = self._outputs.get(call.branch)
        if before is not None and call.state.change is not None:
            self.seen.append((call.state.change, relative_change(before, output)))
        self._outputs[call.branch] = output
        return result


def _fit(name: str, seen: list[tuple[float, float]]) -> tuple[Coefficients, float]:
    """Coefficients, and the share of the variance that they explain."""
    if len(seen) <= DEGREE:
        raise ConfigError(
            f"{len(seen)} pairs of successive calls of '{name}' were seen, and a polynomial of degree {DEGREE} takes "
            f"at least {DEGREE + 1}: let 'run' draw more prompts with this pipeline"
        )
    inputs, outputs = np.array(seen).T
    if not np.isfinite([inputs, outputs]).all():
        raise ConfigError(f"'{name}' made numbers that are not finite; there is nothing to fit to")
    coefficients = np.polyfit(inputs, outputs, DEGREE)
    residual = float(((np.polyval(coefficients, inputs) - outputs) ** 2).sum())
    spread = float(((outputs - outputs.mean()) ** 2).sum())
    return tuple(coefficients.tolist()), round(1 - residual / max(spread, 1e-12), 4)
