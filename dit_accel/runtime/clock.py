"""Which step of how many: heard from this pipeline's own scheduler, never read from timestep values."""

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import torch

from dit_accel.runtime.ledger import RUNTIME, PatchLedger
from dit_accel.runtime.patch import Patch


class Clock:
    """Counts denoising steps by listening on the scheduler instances that a pipeline uses.

    A second-order scheduler (Heun, KDPM2) and PNDM list every evaluation in ``timesteps`` and call ``step`` once for
    each, so one step here is one denoiser evaluation. The absolute index also comes from where in
    ``scheduler.timesteps`` the tensor ``t`` lies (its storage offset), which no device has to be asked for: this is
    what makes image-to-image right on schedulers without a begin index.

    Args:
        owner: An object with a ``scheduler`` attribute: the pipeline, or a stand-in for a bare denoiser.
        ledger: Undoes the listening.
    """

    def __init__(self, owner: Any, ledger: PatchLedger) -> None:
        self.owner = owner
        self.ledger = ledger
        self.run = 0
        self.step = 0
        self.num_steps = 0
        self._pending = False
        self._stepped = False
        self._source: Any = None
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()  # a pipeline may copy its scheduler for every call
        self.on_end: list[Callable[[], None]] = []
        self.before_step: list[Callable[[int, Any], Any]] = []
        self._attach(owner.scheduler, started=getattr(owner.scheduler, "num_inference_steps", None) is not None)

    @property
    def scheduler(self) -> Any:
        """The scheduler that drives the current run."""
        return self._source

    def position(self) -> tuple[int, int]:
        """The step index and the number of steps, at a denoiser call; begins a run if one is due."""
        current = self.owner.scheduler
        if current not in self._known:
            self._attach(current, started=True)
        if self._pending:
            self._begin()
        return self.step, self.num_steps

    def listen(self, copy: Any, name: str) -> "Patch[Any]":
        """A listener for a deep copy of a scheduler we listen on."""
        listener = _LISTENERS[name](copy, name, self)
        self.ledger.adopt(listener, by=RUNTIME)
        self._known.add(copy)
        return listener

    def on_set_timesteps(self, scheduler: Any) -> None:
        """A run is about to start."""
        self._source = scheduler
        self._pending = True
        self._stepped = False
        self.step = 0
        self.num_steps = 0

    def on_scale_model_input(self, scheduler: Any, timestep: Any) -> None:
        """The pipeline prepares the denoiser's input for ``timestep``."""
        if scheduler is self._source:
            index = _index_in(scheduler.timesteps, timestep)
            if index is not None:
                if self._pending:
                    self._begin()
                self.step = index

    def prepare_step(self, scheduler: Any, timestep: Any, sample: Any) -> Any:
        """The latents that the scheduler is to step from: those it is given, as ``before_step`` changes them."""
        if scheduler is self._source and not self._pending:
            index = _index_in(scheduler.timesteps, timestep)
            for change in self.before_step:
                sample = change(self.step if index is None else index, sample)
        return sample

    def on_step(self, scheduler: Any, timestep: Any) -> None:
        """The scheduler took a step."""
        if scheduler is not self._source:
            if self._stepped:
                return  # a second scheduler that steps in parallel (audio beside video)
            self._source = scheduler
        if self._pending:
            self._begin()
        self._stepped = True
        index = _index_in(scheduler.timesteps, timestep)
        self.step = (self.step if index is None else index) + 1
        if self.step >= self.num_steps:
            for callback in tuple(self.on_end):
                callback()

    def _begin(self) -> None:
        self._pending = False
        self.run += 1
        timesteps = getattr(self._source, "timesteps", None)
        self.num_steps = 0 if timesteps is None else len(timesteps)
        self.step = getattr(self._source, "begin_index", None) or 0

    def _attach(self, scheduler: Any, *, started: bool) -> None:
        for name, kind in _LISTENERS.items():
            if hasattr(scheduler, name):
                self.ledger.set(scheduler, name, kind(scheduler, name, self), by=RUNTIME)
        self._known.add(scheduler)
        self.on_set_timesteps(scheduler)
        self._pending = started


class _Listener(Patch[Any]):
    """A scheduler method that also tells the clock."""

    def __init__(self, owner: Any, name: str, clock: Clock) -> None:
        super().__init__(owner, name)
        self.clock = clock

    def rebound(self, copy: Any) -> Any:
        # Called half-way through deepcopy: the copy has its class but not yet its attributes, so the
        # class's own method is what there is to wrap.
        return super().rebound(copy) if copy is self.owner else self.clock.listen(copy, self.name)


class _SetTimesteps(_Listener):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.original(*args, **kwargs)
        self.clock.on_set_timesteps(self.owner)
        return result


class _ScaleModelInput(_Listener):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.clock.on_scale_model_input(self.owner, _argument("timestep", 1, args, kwargs))
        return self.original(*args, **kwargs)


class _Step(_Listener):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.clock.before_step:
            args, kwargs = self._prepared(args, kwargs)
        result = self.original(*args, **kwargs)
        self.clock.on_step(self.owner, _argument("timestep", 1, args, kwargs))
        return result

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = list(inspect.signature(self.original).parameters)
        place = names.index("sample") if "sample" in names else len(names)
        if place >= len(args) and "sample" not in kwargs:
            return args, kwargs
        given = _argument("sample", place, args, kwargs)
        sample = self.clock.prepare_step(self.owner, _argument("timestep", 1, args, kwargs), given)
        if place < len(args):
            return (*args[:place], sample, *args[place + 1 :]), kwargs
        return args, {**kwargs, "sample": sample}


_LISTENERS: dict[str, type[_Listener]] = {
    "set_timesteps": _SetTimesteps,
    "scale_model_input": _ScaleModelInput,
    "step": _Step,
}


def _argument(name: str, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def _index_in(timesteps: Any, timestep: Any) -> int | None:
    """Index of a 0-d view in the tensor it was taken from, or None when it is no such view. Reads no values."""
    if not (isinstance(timesteps, torch.Tensor) and isinstance(timestep, torch.Tensor)):
        return None
    if timesteps.dim() != 1 or timestep.numel() != 1 or timestep.device != timesteps.device:
        return None
    if timestep.untyped_storage().data_ptr() != timesteps.untyped_storage().data_ptr():
        return None
    distance = int(timestep.storage_offset() - timesteps.storage_offset())
    index, rest = divmod(distance, max(1, timesteps.stride(0)))
    return index if rest == 0 and 0 <= index < len(timesteps) else None
