"""Records how fast the outputs of a model change from step to step: what the solvers of schedules work on.

One run in which everything is computed gives the error of answering any step with what any earlier one gave, for each
site and for the whole output (SmoothCache, Liu et al., arXiv 2411.10510, and CacheQuant, arXiv 2503.01323, record the
same of theirs). Differences are summed up while the run goes on; only the last outputs are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from dit_accel.api import accelerated
from dit_accel.errors import ConfigError
from dit_accel.families.base import BoundSite
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.trees import leaves
from dit_accel.schedules import GeneratorSpec
from dit_accel.schedules.generators import LEAF_KINDS
from dit_accel.schedules.solvers import Errors, Table
from dit_accel.session.session import session_of

MODEL = "model"
UNET_KINDS = ("conv_in", "down_block", "mid_block", "up_block", "resnet", "transformer")
RECORDED_KINDS = (MODEL, *LEAF_KINDS, *UNET_KINDS, "block")

See = Callable[[str, Call, list[torch.Tensor]], None]
"""Takes a site's id, the call, and what a cache would keep of the output."""


@dataclass(frozen=True)
class Curves:
    """Errors between the outputs of two steps, averaged over prompts and guidance branches.

    Attributes:
        num_steps: T.
        kinds: Site id to its kind.
        relative: Site id to [T, T]: |y_i - y_j|_1 / |y_j|_1 at [i, j]; NaN where it was not seen.
        absolute: The same without the denominator, as a mean over elements.
    """

    num_steps: int
    kinds: Mapping[str, str]
    relative: Mapping[str, Table]
    absolute: Mapping[str, Table]

    def sites(self, kinds: Iterable[str] = LEAF_KINDS) -> tuple[str, ...]:
        """Ids of the sites of these kinds.

        Raises:
            ConfigError: There are none.
        """
        wanted = frozenset(kinds)
        chosen = tuple(site for site, kind in self.kinds.items() if kind in wanted)
        if not chosen:
            raise ConfigError(f"no site of kind {', '.join(sorted(wanted))} was recorded")
        return chosen

    def mean(self, sites: Sequence[str], *, absolute: bool = False) -> Table:
        """Distances [T, T], averaged over sites."""
        tables = self.absolute if absolute else self.relative
        mean: Table = np.mean([tables[site] for site in sites], axis=0)
        return mean

    def by_kind(self, max_skip: int, kinds: Iterable[str] = LEAF_KINDS) -> Errors:
        """SmoothCache's curves: for each kind, entry [i][k - 1] is the mean error of answering step i + k with i."""
        chosen = self.sites(kinds)
        found: dict[str, list[list[float]]] = {}
        for kind in dict.fromkeys(self.kinds[site] for site in chosen):
            table = self.mean([site for site in chosen if self.kinds[site] == kind])
            found[kind] = [table[i, i + 1 : i + 1 + max_skip].tolist() for i in range(self.num_steps)]
        return found


def record_curves(
    pipe: Any,
    run: Callable[[], object],
    *,
    kinds: Iterable[str] = RECORDED_KINDS,
    horizon: int | None = None,
    scheduler: Any = None,
) -> Curves:
    """Watch a pipeline draw in full.

    Of a pipeline with two denoisers that take turns both are recorded; no error is known across the change.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it, any number of times, at the steps, size and guidance that it will be used with.
        kinds: Of the sites that are recorded; ``"model"`` is the whole output.
        horizon: How many earlier outputs of every site are kept to compare with; default: all.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        ConfigError: The runs have different step counts, or not all steps of a run were seen.
    """
    sums = _Sums(horizon)
    with watched(pipe, sums.see, kinds=frozenset(kinds), scheduler=scheduler) as found:
        run()
    return sums.curves(found)


@contextmanager
def watched(
    pipe: Any, see: See, *, kinds: frozenset[str] | None = None, sites: Sequence[str] = (), scheduler: Any = None
) -> Iterator[dict[str, str]]:
    """While inside, the pipeline computes everything and ``see`` is called with every output that could be kept.

    Args:
        pipe: A pipeline, or a bare denoiser.
        see: Is shown a block's addition to its residual streams, and the plain output of any other site.
        kinds: Of the sites that are watched.
        sites: Ids of those that are watched, if ``kinds`` is ``None``.
        scheduler: The scheduler of a bare denoiser.

    Yields:
        Site id to kind of those that are watched.
    """
    nothing = StaticCacheConfig(schedule=GeneratorSpec("custom", reuse={}), invariants=False)
    found: dict[str, str] = {}
    with accelerated(pipe, nothing, scheduler=scheduler):
        session = session_of(pipe)
        assert session is not None
        handles = []
        for runtime in session.runtimes:
            watcher = _Watcher(see)
            for site in runtime.target.layout.sites:
                if site.info.auxiliary or not (site.info.id in sites if kinds is None else site.info.kind in kinds):
                    continue
                found[site.info.id] = site.info.kind
                if site.path:
                    module = runtime.target.denoiser.get_submodule(site.path)
                    handles.append(module.register_forward_hook(partial(watcher.hook, site), with_kwargs=True))
                else:
                    watcher.root = site.info.id
            runtime.around(watcher, order=100, by="calibration")
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


class _Watcher:
    """Knows which call of its denoiser is running when a module inside of it answers."""

    def __init__(self, see: See) -> None:
        self.see = see
        self.root: str | None = None
        self.call: Call | None = None

    def __call__(self, call: Call, inner: Inner) -> Any:
        self.call = call
        try:
            output = inner(call)
        finally:
            self.call = None
        if self.root is not None:
            self.see(self.root, call, [tensor.detach() for tensor in leaves(output)])
        return output

    def hook(
        self, site: BoundSite, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self.call is None:
            return
        outputs = list(output) if isinstance(output, (tuple, list)) else [output]
        if site.streams:
            given = [args[place] if place < len(args) else kwargs.get(name) for place, name in site.streams]
            pairs = zip(outputs, given, strict=False)
            kept = [y - x for y, x in pairs if isinstance(y, torch.Tensor) and isinstance(x, torch.Tensor)]
        else:
            kept = leaves(outputs)
        self.see(site.info.id, self.call, [tensor.detach() for tensor in kept])


class _Sums:
    """Sums of errors by site and pair of steps.

    Args:
        horizon: How many outputs are kept to compare later ones with.
    """

    def __init__(self, horizon: int | None) -> None:
        self.horizon = horizon
        self.num_steps: set[int] = set()
        self._run = -1
        self._kept: dict[tuple[str, Any], dict[int, torch.Tensor]] = {}
        self._sums: dict[str, dict[tuple[int, int], list[float]]] = {}

    def see(self, site: str, call: Call, output: list[torch.Tensor]) -> None:
        if call.run.number != self._run:
            self._run, self._kept = call.run.number, {}
        self.num_steps.add(call.run.num_steps)
        own = torch.cat([part.flatten() for part in output])
        kept = self._kept.setdefault((site, call.branch), {})
        sums = self._sums.setdefault(site, {})
        size = _mean_abs(own)
        for step, earlier in ((call.step, own), *kept.items()):
            if earlier.shape != own.shape:
                continue
            error = _mean_abs(earlier - own)
            entry = sums.setdefault((step, call.step), [0.0, 0.0, 0.0])
            entry[0] += error / max(size, 1e-12)
            entry[1] += error
            entry[2] += 1
        kept[call.step] = own
        if self.horizon is not None:
            for step in [step for step in kept if step <= call.step - self.horizon]:
                del kept[step]

    def curves(self, kinds: Mapping[str, str]) -> Curves:
        if len(self.num_steps) != 1:
            seen = ", ".join(str(steps) for steps in sorted(self.num_steps)) or "no"
            raise ConfigError(f"runs of {seen} steps were seen; let 'run' draw with one number of steps")
        steps = next(iter(self.num_steps))
        relative, absolute = {}, {}
        for site, sums in self._sums.items():
            relative[site], absolute[site] = np.full((2, steps, steps), np.nan)
            for pair, (ratio, error, count) in sums.items():
                relative[site][pair], absolute[site][pair] = ratio / count, error / count
        missing = [i for i in range(steps) if all(np.isnan(table[i, i]) for table in relative.values())]
        if missing:
            raise ConfigError(f"step {missing[0]} of {steps} was never seen: let 'run' draw whole runs")
        found = {site: kind for site, kind in kinds.items() if site in relative}
        return Curves(num_steps=steps, kinds=found, relative=relative, absolute=absolute)


def _mean_abs(values: torch.Tensor) -> float:
    return float(values.abs().mean(dtype=torch.float32))
