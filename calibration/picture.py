"""A picture of a search as it goes: every judged plan, the front, and the one that would be chosen."""

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dit_accel.calibration.calls import words
from dit_accel.calibration.front import Point, front_of
from dit_accel.errors import MissingDependencyError
from dit_accel.evaluation.progress_files import write_whole

PICTURE_FILE = "front.png"
SECONDS_APART = 5.0  # at least, between two of them: drawing one takes a fifth of a second
RED, BLUE, GREY = "#d1495b", "#2e5e8c", "#b8bcc2"


def draw_front(points: Sequence[Point], path: Path, *, chosen: Point | None = None, title: str = "") -> None:
    """Draw what was judged: evaluations saved to the right, fidelity upwards.

    Args:
        points: Everything that was judged, at least one.
        path: Where to; a PNG.
        chosen: To be marked.
        title: Over it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ConfigError: It cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise MissingDependencyError.for_extra("matplotlib", "bench", "a picture of the front") from error

    front = front_of(points)
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")  # no pyplot: nothing global, no window
    axes = figure.add_subplot()
    axes.scatter([p.saved for p in points], [p.psnr_db for p in points], s=14, color=GREY, label="judged", zorder=1)
    saved = [point.saved for point in front]
    mean, worst = [point.psnr_db for point in front], [point.worst_db for point in front]
    axes.plot(saved, mean, "o-", color=BLUE, markersize=4.5, linewidth=1.6, label="front: mean", zorder=3)
    axes.plot(
        saved, worst, "o--", color=BLUE, markersize=3, linewidth=1, alpha=0.6, label="front: worst tenth", zorder=2
    )
    if chosen is not None:
        label = f"chosen: {words(chosen.computed)} of {chosen.num_steps}, {chosen.psnr_db:.1f} dB"
        axes.plot([chosen.saved], [chosen.psnr_db], "o", color=RED, markersize=8, label=label, zorder=4)
    axes.set_xlim(1.0, max(2.5, 1.05 * max(saved)))
    axes.set_xlabel("evaluations saved: of a run by those that are computed")
    axes.set_ylabel("PSNR to the plain run, dB")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.margins(y=0.08)
    axes.grid(color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    write_whole(path, content.getvalue())


class Picture:
    """Keeps the picture of a calibration fresh, at most every few seconds.

    Args:
        folder: Of the calibration.
        title: Over the picture.
        choose: Which of all points would be chosen, if any.
        tell: Says once that there is no picture, and why.
    """

    def __init__(
        self,
        folder: Path,
        *,
        title: str,
        choose: Callable[[Sequence[Point]], Point | None],
        tell: Callable[[str], Any],
    ) -> None:
        self.path = folder / PICTURE_FILE
        self._title, self._choose, self._tell = title, choose, tell
        self._possible = True
        self._drawn = -SECONDS_APART

    def refresh(self, points: Sequence[Point], *, now: bool = False) -> None:
        """Draw it again, if the last one is old enough or it has to be now."""
        if not points or not self._possible or not (now or time.monotonic() - self._drawn >= SECONDS_APART):
            return
        try:
            draw_front(points, self.path, chosen=self._choose(points), title=self._title)
        except MissingDependencyError as error:
            self._possible = False
            self._tell(f"no picture: {error}")
        self._drawn = time.monotonic()
