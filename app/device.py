"""The one device: it holds one pipeline, and does one job at a time, with progress and a way to stop it.

torch, diffusers and the pipelines are imported by the first job, not with this module: the page is up before them.
"""

import gc
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dit_accel.app.faults import is_memory
from dit_accel.app.places import Places
from dit_accel.errors import AccelerationWarning, DitAccelError

if TYPE_CHECKING:
    import torch

    from dit_accel.api import PlanLike
    from dit_accel.pipelines.generation import GenerationSettings

OnStep = Callable[[int, int], None]
"""Told of each scheduler step that is done, and of how many there are."""


class BusyError(DitAccelError):
    """The device has another job."""


class CancelledError(DitAccelError):
    """The job was stopped by who asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What one run made.

    Attributes:
        sample: Image [3, H, W] or video [F, 3, H, W], float32 in [0, 1], on the CPU.
        seconds: Of the whole call, by the clock.
        summary: What the plan did, for people; empty for a plain run.
        certified: Whether the plan's certificate holds for this model and covers this run.
        warnings: What was warned of.
        fps: Frames a second of a video.
    """

    sample: "torch.Tensor"
    seconds: float
    summary: str = ""
    certified: bool = False
    warnings: tuple[str, ...] = ()
    fps: float = 8.0


@dataclass(slots=True)
class Device:
    """See the module.

    Args:
        places: Where models may be loaded from.
        name: ``"auto"``, ``"cpu"``, ``"cuda"``.
        threads: Of torch.
        others: Says in words what else uses the device, e.g. a search in a process of its own; empty: nothing does.
    """

    places: Places
    name: str = "auto"
    threads: int = 1
    others: Callable[[], str] = lambda: ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _job: str = ""
    _owner: str = ""
    _since: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _pipes: dict[str, Any] = field(default_factory=dict)

    @property
    def doing(self) -> str:
        """What it is doing, in words; empty: nothing."""
        job = self._job
        return f"{job}, for {time.monotonic() - self._since:.0f} s" if job else ""

    @contextmanager
    def job(self, what: str, owner: str = "") -> Iterator[None]:
        """Claim the device.

        Args:
            what: In words, for who comes second.
            owner: Who may stop it.

        Raises:
            BusyError: It has another job, or another process uses it.
            MemoryError: And all else that the job raises. Where memory ran out, the model is let go.
        """
        elsewhere = self.others()
        if elsewhere:
            raise BusyError(f"the device is busy: {elsewhere}. One job runs at a time; stop that one, or wait.")
        if not self._lock.acquire(timeout=0.2):
            raise BusyError(f"the device is busy: {self.doing}. One job runs at a time.")
        self._job, self._owner, self._since = what, owner, time.monotonic()
        self._stop.clear()
        try:
            yield
        except BaseException as error:
            if is_memory(error):
                self._pipes.clear()
            raise
        finally:
            self._job = self._owner = ""
            self._lock.release()

    def stop(self, owner: str) -> bool:
        """Ask the job of this owner to stop at its next step; returns whether there was one."""
        if not self._job or self._owner != owner:
            return False
        self._stop.set()
        return True

    def loaded(self, model: str) -> Any:
        """The pipeline of a model where it is at hand; else ``None``."""
        return self._pipes.get(model)

    def place(self) -> "tuple[torch.device, str]":
        """The device, and the type of the weights on it; imports torch.

        Raises:
            ConfigError: There is no such device.
        """
        from dit_accel.pipelines.loading import pick_device

        place = pick_device(self.name)
        return place, "bfloat16" if place.type == "cuda" else "float32"

    def pipe(self, model: str) -> Any:
        """The pipeline of a model; the one before is let go. Within a job.

        Raises:
            ConfigError: There is no such model, or it lies outside the folder that may be read.
        """
        if model in self._pipes:
            return self._pipes[model]
        import torch

        from dit_accel.cli.model import hush_loading
        from dit_accel.pipelines.loading import load_pipeline

        source = self.places.model(model)
        self._pipes.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        hush_loading()
        torch.set_num_threads(self.threads)
        place, dtype = self.place()
        # Weights that are no safetensors are pickles, which can run code.
        pipe = load_pipeline(source, dtype=dtype, device=place, use_safetensors=True)
        pipe.set_progress_bar_config(disable=True)
        self._pipes[model] = pipe
        return pipe

    def draw(
        self,
        model: str,
        prompt: str,
        seed: int,
        settings: "GenerationSettings",
        plan: "PlanLike | None" = None,
        on_step: OnStep | None = None,
    ) -> Drawn:
        """Draw one image or video. Within a job.

        Raises:
            CancelledError: It was asked to stop.
            ConfigError: The pipeline refuses the settings.
            IrreversibleError: The plan cannot be undone, and the next picture would be drawn with it too.
            PlanMismatchError: The plan is for another model.
        """
        from dit_accel.api import accelerated, summary
        from dit_accel.pipelines.generation import fps_of, generate, makes_video

        pipe = self.pipe(model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", AccelerationWarning)
            with nullcontext() if plan is None else accelerated(pipe, plan):
                with _watched(pipe, self._stop, on_step):
                    began = time.perf_counter()
                    sample = generate(pipe, [prompt], [seed], settings)[0]
                    seconds = time.perf_counter() - began
                seen = None if plan is None else summary(pipe)
        said = dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, AccelerationWarning))
        return Drawn(
            sample=sample,
            seconds=seconds,
            summary="" if seen is None else str(seen),
            certified=seen is not None and seen.certified and not seen.gaps,
            warnings=tuple(said),
            fps=fps_of(pipe, sample.shape[0]) if makes_video(pipe) else 8.0,
        )

    def check(self) -> None:
        """Stop here if that was asked for.

        Raises:
            CancelledError: It was.
        """
        if self._stop.is_set():
            raise CancelledError("stopped")


class _Bar:
    """Stands in for a pipeline's progress bar, which every diffusers pipeline moves once a step."""

    def __init__(self, total: int, stop: threading.Event, on_step: OnStep | None) -> None:
        self.total, self.done, self.stop, self.on_step = total, 0, stop, on_step

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None  # set_postfix, close and the like

    def update(self, count: int = 1) -> None:
        if self.stop.is_set():
            raise CancelledError(f"stopped after {self.done} of {self.total} steps")
        self.done += count
        if self.on_step is not None:
            self.on_step(self.done, self.total)


@contextmanager
def _watched(pipe: Any, stop: threading.Event, on_step: OnStep | None) -> Iterator[None]:
    """Within this, each step of the pipeline is told of, and can be the last one."""

    def progress_bar(iterable: Any = None, total: int | None = None) -> Any:
        if iterable is None:
            return _Bar(total or 0, stop, on_step)
        items = list(iterable)
        bar = _Bar(len(items), stop, on_step)
        return _each(items, bar)

    pipe.progress_bar = progress_bar
    try:
        yield
    finally:
        del pipe.progress_bar


def _each(items: list[Any], bar: _Bar) -> Iterator[Any]:
    for item in items:
        yield item
        bar.update()
