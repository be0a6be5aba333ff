"""What a rival is: a technique of others that can be put on a pipeline, checked, and taken off without a trace."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from rivals.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One choice of a rival's parameters.

    Attributes:
        name: Unique among all settings of all rivals, e.g. ``FORA N=3``.
        rival: Name of the rival.
        params: Parameters by the names of the code that reads them; plain JSON data.
        advised: Whether this is what the authors recommend.
        num_inference_steps: Of a run with other steps than the plain one's; ``None``: the same.
        note: What a reader must know of this setting.
    """

    name: str
    rival: str
    params: Mapping[str, Any] = field(default_factory=dict)
    advised: bool = False
    num_inference_steps: int | None = None
    note: str = ""


@dataclass(slots=True, kw_only=True)
class Task:
    """The run that a rival is set up for.

    Attributes:
        num_inference_steps: Scheduler steps of the plain run.
        calibrate: Runs the pipeline, as it is, over prompts for tuning; none of them is used to measure.
        memory: What rivals learned from that, JSON data by name; kept on disk between processes.
    """

    num_inference_steps: int
    calibrate: Callable[[], object]
    memory: dict[str, Any] = field(default_factory=dict)

    def learned(self, name: str, learn: Callable[[], Any]) -> Any:
        """The result of ``learn``, computed once a task."""
        if name not in self.memory:
            self.memory[name] = learn()
        return self.memory[name]


class Rival(ABC):
    """A technique. Stateless, but for what it needs to take itself off a pipeline again.

    Attributes:
        name: Short name.
        method: Authors' publication.
        made_by: Whose code runs.
        advice: What the authors recommend, and where they say so.
    """

    name: ClassVar[str]
    method: ClassVar[str]
    made_by: ClassVar[str]
    advice: ClassVar[str]

    def __init__(self) -> None:
        self._snapshots: WeakKeyDictionary[Any, Snapshot] = WeakKeyDictionary()

    @abstractmethod
    def supports(self, pipe: Any) -> str | None:
        """``None``, or one sentence on why this pipeline cannot be accelerated by this technique."""

    @abstractmethod
    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        """The authors' advice and a sweep around it, mildest first."""

    @abstractmethod
    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        """Put it on the pipeline."""

    def detach(self, pipe: Any) -> None:  # noqa: B027 (many have nothing to say goodbye to)
        """Take it off as its authors provide for; what that leaves behind is cleaned up afterwards."""

    def prepare(self, pipe: Any, task: Task) -> None:  # noqa: B027 (most need none)
        """Calibrate on a plain pipeline; results belong into ``task.memory``."""

    def apply(self, pipe: Any, setting: Setting, task: Task) -> None:
        """Put it on a plain pipeline. When that fails, the pipeline is left as it was.

        Raises:
            RuntimeError: It is on this pipeline already.
        """
        if pipe in self._snapshots:
            raise RuntimeError(f"{self.name} is on this pipeline already")
        self._snapshots[pipe] = Snapshot(pipe)
        try:
            self.attach(pipe, setting, task)
        except BaseException:
            self._snapshots.pop(pipe).restore()
            raise

    def remove(self, pipe: Any) -> None:
        """Leave the pipeline exactly as :meth:`apply` found it."""
        snapshot = self._snapshots.pop(pipe)
        try:
            self.detach(pipe)
        finally:
            snapshot.restore()

    @contextmanager
    def applied(self, pipe: Any, setting: Setting, task: Task) -> Iterator[None]:
        """A block in which it is on the pipeline."""
        self.apply(pipe, setting, task)
        try:
            yield
        finally:
            self.remove(pipe)
