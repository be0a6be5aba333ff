"""What the tab Explore shows for a choice, without a word of gradio: every gesture ends in one of these."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dit_accel.app import choose, show
from dit_accel.app.device import Device, OnStep
from dit_accel.app.heatmap import heatmap, rows_of_passes
from dit_accel.app.library import Library, Opened
from dit_accel.app.pictures import Kept, still
from dit_accel.app.plans import read_plan_file
from dit_accel.app.points import Front, FrontPoint, Shown
from dit_accel.errors import ConfigError
from dit_accel.plan.facts import metric_facts
from dit_accel.prompts import load_prompts

AUTO_S = 25.0  # pictures that take longer are drawn when they are asked for
NUM_DEMO = 4


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
    """

    library: Library
    device: Device
    kept: Kept

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
            how: ``point`` (a key), ``time`` (seconds), ``brush`` (two times), ``quality`` (a limit), ``row`` (a
                label), or ``thumbnail`` (a place).
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
        elif how == "thumbnail":
            point = choose.by_place(show.thumbnails(front), int(value))
        elif how == "row":
            labels = [each.label for each in front.visible(rivals=True)]
            place = labels.index(str(value)) if str(value) in labels else -1
            point = choose.by_place(front.visible(rivals=True), place)
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

    def heat(self, point: FrontPoint) -> str:
        """The plan as a heat map."""
        if point.folder is None:
            computed = "Every site is computed at every step." if point.kind in ("plain", "fewer_steps") else ""
            return heatmap((), (computed or "This point has no saved plan to draw.",))
        return heatmap(*rows_of_passes(read_plan_file(point.folder).passes))

    def prompts(self, front: Front, point: FrontPoint) -> tuple[Shown, ...]:
        """What to look at: the worst and the typical of its measurement; without one, prompts for show."""
        if point.shown:
            return point.shown
        near = next((p.shown for p in front.points if p.shown and p.kind == "ours"), ())
        listed = load_prompts("demo", "video" if front.video else "image").prompts[:NUM_DEMO]
        return near or tuple(Shown(prompt=text, seed=k, place="for show") for k, text in enumerate(listed))

    def missing(self, front: Front, wanted: list[tuple[FrontPoint, Shown]]) -> float:
        """Seconds that it takes to draw what is not kept yet, by the report's clock."""
        total = 0.0
        for point, shown in wanted:
            if point.can_run and not self._path(front, point, shown).is_file():
                total += front.time_s(point) or front.plain_s or 1.0
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
        return self.kept.path(front.model, point, shown.prompt, shown.seed, self._steps(point))

    def _steps(self, point: FrontPoint) -> int | None:
        return point.num_steps or None

    def _draw(self, front: Front, point: FrontPoint, shown: Shown, path: Path, on_step: OnStep | None) -> None:
        from dit_accel.pipelines.generation import GenerationSettings

        settings = GenerationSettings(num_inference_steps=self._steps(point))
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


def limits(front: Front, metric: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of the slider for time, seconds, and of the one for quality."""
    points = [p for p in choose.choosable(front, metric) if p.kind != "plain"]
    times = [seconds for p in points if (seconds := front.time_s(p)) is not None]
    values = [p.errors[metric].mean for p in points]
    time_ends = (min(times, default=0.0), front.plain_s or 1.0)
    return time_ends, (min(values, default=0.0), max(values, default=1.0))


def quality_value(front: Front, point: FrontPoint, metric: str) -> float | None:
    """Where the slider for quality stands for a point: its own value, or the good end for the plain run."""
    (_, _), (low, high) = limits(front, metric)
    if point.kind == "plain":
        return high if metric_facts(metric).higher_is_better else low
    return point.errors[metric].mean if metric in point.errors else None
