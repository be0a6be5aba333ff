"""Counts what a denoiser really computes, and how long it takes, whatever a rival says of itself.

A module whose answer comes from a cache still looks called: its hooks fire around the patched ``forward``. So the
count is taken one level lower, where a layer's own weight meets an input: ``linear(x, weight)`` is a computation of
the layer that owns ``weight``, by whatever way it was reached, and an answer from a cache is not.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dit_accel.evaluation.reports.contest import Action
from dit_accel.families import resolve_family

WEIGHTED = (functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)
LEAF_KINDS = ("self_attn", "cross_attn", "joint_attn", "single_attn", "ff", "ff_context", "proj_mlp", "proj_out")


class Tally(NamedTuple):
    """Counted work.

    Attributes:
        calls: Computations by layer name.
        macs: Multiply-accumulates of these and of attention products.
    """

    calls: Mapping[str, int]
    macs: int


class WorkCounter(TorchFunctionMode):
    """A ``with`` block in which computations of the denoisers' layers are counted.

    Args:
        denoisers: What to count; other modules (text encoders, autoencoders) are not.
    """

    def __init__(self, denoisers: Sequence[nn.Module]) -> None:
        super().__init__()
        self._calls: Counter[str] = Counter()
        self._macs = 0
        self._owners = {
            id(module.weight): f"{index}:{name}"
            for index, denoiser in enumerate(denoisers)
            for name, module in denoiser.named_modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.dim() > 1
        }
        self._inside = 0
        self._denoisers = tuple(denoisers)
        self._handles: list[Any] = []

    @property
    def tally(self) -> Tally:
        """What was counted so far."""
        return Tally(dict(self._calls), self._macs)

    def __enter__(self) -> "WorkCounter":
        for denoiser in self._denoisers:
            self._handles.append(denoiser.register_forward_pre_hook(self._came))
            self._handles.append(denoiser.register_forward_hook(self._went, always_call=True))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _came(self, *_: Any) -> None:
        self._inside += 1

    def _went(self, *_: Any) -> None:
        self._inside -= 1

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in WEIGHTED:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            owner = self._owners.get(id(weight))
            if owner is not None:
                self._calls[owner] += 1
                self._macs += output.numel() * weight[0].numel()
        elif func is functional.scaled_dot_product_attention and self._inside:
            named = dict(zip(("query", "key"), args, strict=False)) | kwargs
            query, key = named["query"], named["key"]
            self._macs += query.shape[:-2].numel() * query.shape[-2] * key.shape[-2] * 2 * query.shape[-1]
        return output


def action(plain: Tally, own: Tally, denoisers: Sequence[nn.Module]) -> Action:
    """What a run left out of the plain run's work; both over the same prompts."""
    kinds = _kinds(denoisers)
    total: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for owner, count in plain.calls.items():
        kind = kinds(owner)
        total[kind] += count
        missing[kind] += max(0, count - own.calls.get(owner, 0))
    return Action(
        calls=sum(own.calls.values()),
        plain_calls=sum(plain.calls.values()),
        macs=own.macs,
        plain_macs=plain.macs,
        saved_by_kind={kind: round(missing[kind] / total[kind], 4) for kind in sorted(total)},
    )


def _kinds(denoisers: Sequence[nn.Module]) -> Any:
    """Layer name to the kind of the module it is part of."""
    found = []
    for index, denoiser in enumerate(denoisers):
        sites = resolve_family(denoiser).bind(denoiser).sites
        found += [(f"{index}:{site.path}", site.info.kind) for site in sites if site.info.kind in LEAF_KINDS]
    by_path = dict(found)

    def kind(owner: str) -> str:
        path = owner
        while path:
            if path in by_path:
                return by_path[path]
            path = path.rpartition(".")[0]
        return "rest"

    return kind


class Stopwatch:
    """A ``with`` block that adds up the seconds of the denoisers' calls.

    Args:
        denoisers: All of them.

    Attributes:
        seconds: So far.
    """

    def __init__(self, denoisers: Sequence[nn.Module]) -> None:
        self.seconds = 0.0
        self._denoisers = tuple(denoisers)
        self._started = 0.0
        self._handles: list[Any] = []

    def __enter__(self) -> "Stopwatch":
        for denoiser in self._denoisers:
            self._handles.append(denoiser.register_forward_pre_hook(self._start))
            self._handles.append(denoiser.register_forward_hook(self._stop))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _start(self, *_: Any) -> None:
        _synchronize()
        self._started = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        _synchronize()
        self.seconds += time.perf_counter() - self._started


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
