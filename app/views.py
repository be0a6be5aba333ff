"""What the tab Explore shows for a choice, without a word of gradio: every gesture ends in one of these."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dit_accel.app import choose
from dit_accel.app.device import Device, OnStep
from dit_accel.app.heat_rows import Known, rows_of_passes, tensor_shapes
from dit_accel.app.heatmap import heatmap
from dit_accel.app.library import Library, Opened
from dit_accel.app.pictures import Kept, still
from dit_accel.app.plans import read_plan_file
from dit_accel.app.points import Front, FrontPoint, Shown
from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.plan.plan import TENSOR_FILE
from dit_accel.prompts import load_prompts

if TYPE_CHECKING:
    from dit_accel.pipelines.generation import GenerationSettings

AUTO_S = 25.0  # pictures that take longer are drawn when they are asked for
NUM_DEMO = 4
ASSUMED_STEPS = 20  # for the map of a pipeline whose call does not say how many steps it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a visitor looks at.

    Attributes:
        model: Name of a front.
        metric: Of the error axis.
        rivals: Whether rivals are shown.
        key: Of the chosen point.
    """

    model: str
    metric: str
    rivals: bool
    key: str


@dataclass(slots=True)
class Explorer:
    """Answers for the tab.

    Args:
        library: The fronts.
        device: Draws.
        kept: Pictures.
        awake: Whether torch is imported.
    """

    library: Library
    device: Device
    kept: Kept
    awake: bool = False

    def first(self, model: str, opened: Opened | None = None) -> Choice:
        """Where a visitor begins: our plan in the middle of the front."""
        front = self.library.front(model, opened)
        metric = front.metrics[0] if front.metrics else "psnr_db"
        ours = [p.key for p in front.points if p.kind == "ours"]
        measured = [p.key for p in front.points if p.kind == "ours" and p.has(metric)]
        keys = measured or ours or ["plain"]
        return Choice(model=model, metric=metric, rivals=False, key=keys[(len(keys) - 1) // 2])

    def chosen(self, choice: Choice, how: str, value: Any, opened: Opened | None = None) -> Choice:
        """The choice after a gesture.

        Args:
            choice: Before it.
            how: ``point`` (a key), ``time`` (seconds), ``brush`` (two times), ``quality`` (a limit), ``row`` or
                ``thumbnail`` (a label).
            value: Of the gesture.
            opened: What the visitor has opened.

        Raises:
            ConfigError: It leads to no point; says what is near.
        """
        front, metric = self.library.front(choice.model, opened), choice.metric
        if how == "point":
            point = front.point(str(value))
        elif how == "time":
            point = choose.by_time(front, metric, float(value))
        elif how == "brush":
            point = choose.by_time(front, metric, float(value[1]), float(value[0]))
        elif how == "quality":
            point = choose.by_quality(front, metric, float(value))
        elif how in ("row", "thumbnail"):
            point = choose.by_label(front.visible(rivals=True), str(value))
        else:
            raise ConfigError(f"nobody can choose by '{how}': point, time, brush, quality, row or thumbnail")
        rivals = choice.rivals or point.kind == "rival"
        return Choice(model=choice.model, metric=metric, rivals=rivals, key=point.key)

    def front_and_point(self, choice: Choice, opened: Opened | None = None) -> tuple[Front, FrontPoint]:
        """The front that is looked at, and the chosen point; of another front's key its first choice."""
        front = self.library.front(choice.model, opened)
        if all(point.key != choice.key for point in front.points):
            choice = self.first(choice.model, opened)
        return front, front.point(choice.key)

    def heat(self, front: Front, point: FrontPoint) -> str:
        """The plan as a heat map. Before :meth:`wake` as much of it as needs no torch."""
        if point.kind == "rival":
            return heatmap((), ("A technique of others: the explorer has no plan of it to draw.",))
        if point.kind != "ours":
            return heatmap((), ("Everything is computed at every step.",))
        if point.folder is None and point.preset is None:
            return heatmap((), ("The report does not hold this plan, so there is no map of it.",))
        steps = point.num_steps or front.num_steps or ASSUMED_STEPS
        try:
            if self.awake:
                from dit_accel.app.layouts import passes_of

                passes, known = passes_of(point.folder, point.preset, self._targets(front.model), steps)
            elif point.folder is not None:
                shapes = tensor_shapes(point.folder / TENSOR_FILE)
                passes, known = read_plan_file(point.folder).passes, Known(num_steps=steps, shapes=shapes)
            else:
                passes, known = [], Known()
        except DitAccelError as error:
            return heatmap((), (str(error),))
        if not passes:
            return heatmap((), ("A preset by rule: its map is drawn once the model is read.",))
        return heatmap(*rows_of_passes(passes, known))

    def _targets(self, model: str) -> tuple[Any, ...]:
        """The denoisers of a model, without weights where none are loaded; empty: it is not on this machine."""
        from dit_accel.app.layouts import targets_of
        from dit_accel.families.targets import find_targets

        pipe = self.device.loaded(model)
        return find_targets(pipe) if pipe is not None else targets_of(self.device.places.model(model))

    def wake(self) -> None:
        """Import what takes seconds; the page is up, so nobody waits for it."""
        import dit_accel.app.layouts  # noqa: F401

        self.awake = True

    def prompts(self, front: Front, point: FrontPoint) -> tuple[Shown, ...]:
        """What to look at: the worst and the typical of its measurement; without one, prompts for show."""
        if point.shown:
            return point.shown
        near = next((p.shown for p in front.points if p.shown and p.kind == "ours"), ())
        listed = load_prompts("demo", "video" if front.video else "image").prompts[:NUM_DEMO]
        return near or tuple(Shown(prompt=text, seed=k, place="for show") for k, text in enumerate(listed))

    def missing(self, front: Front, wanted: list[tuple[FrontPoint, Shown]]) -> float:
        """Seconds that it takes to draw what is not kept yet, by the report's clock; infinite: nobody has timed it."""
        total = 0.0
        for point, shown in wanted:
            if point.can_run and not self._path(front, point, shown).is_file():
                total += front.time_s(point) or front.plain_s or float("inf")
        return total

    def picture(
        self, front: Front, point: FrontPoint, shown: Shown, on_step: OnStep | None = None
    ) -> Image.Image | None:
        """A point's picture of a prompt: kept, or drawn now, within a job of the device; ``None``: it cannot be."""
        if not point.can_run:
            return None
        path = self._path(front, point, shown)
        if not path.is_file():
            self._draw(front, point, shown, path, on_step)
        return still(path)

    def file(self, front: Front, point: FrontPoint, shown: Shown) -> Path | None:
        """The kept picture, if there is one."""
        path = self._path(front, point, shown)
        return path if path.is_file() else None

    def _path(self, front: Front, point: FrontPoint, shown: Shown) -> Path:
        place, dtype = self.device.place()
        settings = settings_of(front, point.num_steps or None)
        return self.kept.path(front.model, point, shown.prompt, shown.seed, settings, (place.type, dtype))

    def _draw(self, front: Front, point: FrontPoint, shown: Shown, path: Path, on_step: OnStep | None) -> None:
        settings = settings_of(front, point.num_steps or None)
        plan = None if point.kind != "ours" else (point.folder or point.preset)
        drawn = self.device.draw(front.model, shown.prompt, shown.seed, settings, plan, on_step)
        self.kept.keep(path, drawn.sample, drawn.fps)

    def draw_all(
        self, front: Front, wanted: list[tuple[FrontPoint, Shown]], owner: str, on_step: OnStep | None = None
    ) -> Iterator[tuple[FrontPoint, Image.Image | None]]:
        """Pictures one after the other; the device is claimed for those that are not kept.

        Raises:
            BusyError: The device has another job.
            CancelledError: It was stopped.
        """
        if self.missing(front, wanted) == 0:
            for point, shown in wanted:
                yield point, self.picture(front, point, shown)
            return
        with self.device.job(f"drawing with {front.model}", owner):
            for point, shown in wanted:
                self.device.check()
                yield point, self.picture(front, point, shown, on_step)


def settings_of(front: Front, steps: int | None, guidance: float | None = None) -> "GenerationSettings":
    """How the runs of a front were asked for, at so many steps."""
    from dit_accel.pipelines.generation import GenerationSettings

    asked: dict[str, Any] = {**front.asked, **({} if guidance is None else {"guidance_scale": guidance})}
    return GenerationSettings(num_inference_steps=steps, **asked)
