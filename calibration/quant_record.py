"""Records what the linear layers of a denoiser are given in plain runs: all that rounding them well depends on.

Of every layer that may be quantised: the largest value of each input channel in each part of a run, second moments of
the channels (with them the error of any rounded weight is known without running anything), and some rows as they were,
of all prompts, steps and guidance branches alike. Memory, bytes: a layer takes 4 x K x (K + rows), K its input
channels; a layer of 3072 channels 50 MB, so that a model of hundreds of such layers is recorded in ``parts``.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dit_accel.api import accelerated
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.choice import full_name
from dit_accel.passes.quantize.roles import Found, layers_of
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.schedules import GeneratorSpec
from dit_accel.session.session import session_of

BY = "calibration"
BINS = 4  # parts of a run, as in ViDiT-Q
ROWS = 384  # of a layer, kept as they were
RECORDED_BYTES = 8 * 2**30  # of layers that are recorded at a time
_EVERYTHING = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=1), invariants=False)


@dataclass(slots=True, kw_only=True)
class LayerRecord:
    """What one layer was given.

    Attributes:
        bins: Parts that a run is cut into.
        peaks: fp32 [bins, K], the largest absolute value of each channel; noughts of a part that was not seen.
        moments: fp32 [K, K], mean of the products of two channels.
        rows: fp32 [R, K], some rows: what rounded weights are judged by, best of prompts that moments are not of.
        count: Rows that ``moments`` is the mean of.
    """

    bins: int
    peaks: Tensor
    moments: Tensor
    rows: Tensor
    count: int = 0

    @property
    def peak(self) -> Tensor:
        """fp32 [K], of all parts of a run."""
        return self.peaks.amax(0)


@dataclass(slots=True)
class _Gathered:
    bins: int
    wanted: int
    draw: torch.Generator
    peaks: Tensor | None = None
    moments: Tensor | None = None
    count: int = 0
    kept: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor, part: int) -> None:
        if self.peaks is None or self.moments is None:
            size = rows.shape[1]
            self.peaks = torch.zeros(self.bins, size, device=rows.device)
            self.moments = torch.zeros(size, size, device=rows.device)
        self.peaks[part] = torch.maximum(self.peaks[part], rows.abs().amax(0))
        self.moments.addmm_(rows.mT, rows)
        self.count += len(rows)

    def keep(self, rows: Tensor, each: int) -> None:
        places = torch.randint(len(rows), (min(each, len(rows)),), generator=self.draw)
        self.kept.append(rows[places.to(rows.device)].cpu())

    def record(self, name: str) -> LayerRecord:
        if self.peaks is None or self.moments is None:
            raise ConfigError(f"'{name}' was never called, so there is nothing to round it by")
        if not self.kept:
            raise ConfigError(f"'{name}' was not called for the prompts that it is judged by")
        rows = torch.cat(self.kept)
        chosen = torch.randperm(len(rows), generator=self.draw)[: self.wanted]
        moments = (self.moments / max(1, self.count)).cpu()
        if not torch.isfinite(moments).all():
            raise ConfigError(f"the inputs of '{name}' are not finite; the model's dtype may be too narrow for it")
        return LayerRecord(
            bins=self.bins, peaks=self.peaks.cpu(), moments=moments, rows=rows[chosen], count=self.count
        )


def record_layers(
    pipe: Any,
    run: Callable[[], object],
    check: Callable[[], object] | None = None,
    *,
    names: Collection[str] | None = None,
    bins: int = BINS,
    rows: int = ROWS,
    scheduler: Any = None,
) -> dict[str, LayerRecord]:
    """Watch a pipeline draw in full.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it, as it will be used, for prompts that it is not judged by.
        check: Draws other prompts, of which the rows are kept: layers that see text alone are soon fitted to the few
            texts they were shown, and only others tell. ``None``: rows are of ``run``.
        names: Of the linear layers, as plans call them; ``None``: all inside of blocks.
        bins: Parts that a run is cut into.
        rows: Rows of each layer that are kept.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        ConfigError: A layer was never called, or what it was given is not finite.
    """
    gathered: dict[str, _Gathered] = {}
    with accelerated(pipe, _EVERYTHING, scheduler=scheduler):
        session = session_of(pipe)
        assert session is not None
        phase = _Phase(keeps=check is None)
        with _watching(session.runtimes, gathered, names, bins, rows, phase):
            run()
            if check is not None:
                phase.sums, phase.keeps = False, True
                check()
    return {name: each.record(name) for name, each in gathered.items()}


def in_parts(columns: Mapping[str, int]) -> list[list[str]]:
    """The layers in parts that fit into memory together while they are recorded.

    Args:
        columns: K of each layer, by name.
    """
    parts: list[list[str]] = []
    room = 0
    for name, size in columns.items():
        need = 4 * size * (size + 4 * ROWS)
        if need > room:
            parts.append([])
            room = RECORDED_BYTES
        parts[-1].append(name)
        room -= need
    return parts


def recordable(runtime: DenoiserRuntime, names: Collection[str] | None) -> Iterator[tuple[str, Found]]:
    """The linear layers that are recorded, by name; each once, wherever else it stands."""
    seen: set[int] = set()
    for found in layers_of(runtime.target):
        name = full_name(runtime.target.name, found.path)
        wanted = found.role == "block" if names is None else name in names
        if isinstance(found.layer, nn.Linear) and wanted and id(found.layer) not in seen:
            seen.add(id(found.layer))
            yield name, found


@contextmanager
def _watching(
    runtimes: tuple[DenoiserRuntime, ...],
    gathered: dict[str, _Gathered],
    names: Collection[str] | None,
    bins: int,
    rows: int,
    phase: "_Phase",
) -> Iterator[None]:
    handles = []
    try:
        for runtime in runtimes:
            place = _Place(bins)
            runtime.around(place, order=100, by=BY)
            for number, (name, found) in enumerate(recordable(runtime, names)):
                gathered[name] = _Gathered(bins, rows, torch.Generator().manual_seed(number))
                handles.append(found.layer.register_forward_pre_hook(_hook(gathered[name], place, rows, phase)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(slots=True, kw_only=True)
class _Phase:
    """Whether what layers see now goes into sums, and whether rows of it are kept."""

    keeps: bool
    sums: bool = True


class _Place:
    """Where the run is, for the hooks of layers."""

    def __init__(self, bins: int) -> None:
        self.bins, self.part, self.steps = bins, 0, 1

    def __call__(self, call: Call, inner: Inner) -> Any:
        self.steps = call.run.num_steps
        self.part = call.step * self.bins // self.steps
        return inner(call)


def _hook(
    gathered: _Gathered, place: _Place, rows: int, phase: _Phase
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def see(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if not isinstance(x, Tensor) or not x.numel():
            return
        given = x.detach().reshape(-1, x.shape[-1]).float()
        if phase.sums:
            gathered.add(given, place.part)
        if phase.keeps:
            # More than the share of a step, for there may be one prompt or many: the rest is drawn from at the end.
            gathered.keep(given, max(8, 2 * rows // place.steps))

    return see
