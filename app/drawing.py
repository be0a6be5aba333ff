"""Draws what the tab Explore shows of a choice, picture by picture, as long as the visitor still looks at it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dit_accel.app import show
from dit_accel.app.device import BusyError, CancelledError
from dit_accel.app.faults import in_words
from dit_accel.app.looks import note, progress_bar
from dit_accel.app.points import Front, FrontPoint, Shown
from dit_accel.app.views import Choice, Explorer
from dit_accel.app.visits import Visits
from dit_accel.app.work import Tell, Work

Pair = tuple[Image.Image | None, ...]
Wanted = list[tuple[FrontPoint, Shown]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What has changed on the page.

    Attributes:
        pair: Plain and chosen; ``None``: as it was; empty: to be taken away.
        thumbs: Pictures and their labels; ``None``: as they were.
        selected: Place of the chosen point among the thumbnails.
        words: In HTML; what is going on, or why nothing is.
        can_draw: Whether the button that draws is there.
        busy: Whether the button that stops is there.
    """

    pair: Pair | None = None
    thumbs: tuple[tuple[Image.Image | None, str], ...] | None = None
    selected: int | None = None
    words: str = ""
    can_draw: bool = False
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    """See the module.

    Args:
        explorer: Draws.
        visits: Says what each visitor looks at.
    """

    explorer: Explorer
    visits: Visits

    def steps(self, choice: Choice, opened: Any, place: Any, owner: str, most_s: float) -> Iterator[Step]:
        """The pair of the chosen prompt, then a thumbnail of every point.

        Args:
            choice: What is looked at.
            opened: What the visitor has opened.
            place: Of the prompt.
            owner: The visit.
            most_s: What takes longer is not drawn.
        """
        number = place if isinstance(place, int) else 0

        def current() -> bool:
            return self.visits.is_current(owner, (choice, number))

        if not current():
            return
        front, point = self.explorer.front_and_point(choice, opened)
        prompts = self.explorer.prompts(front, point)
        shown = prompts[number if number < len(prompts) else 0]
        if not point.can_run:
            yield Step(pair=(), words=note("This is a technique of others; the explorer does not run it."))
            return
        pair: Wanted = [(front.points[0], shown), (point, shown)]
        timed = front.plain_s is not None
        sample = self.explorer.prompts(front, front.points[0])[-1]
        thumbs: Wanted = [(each, sample) for each in show.thumbnails(front)] if timed else []
        try:
            need = self.explorer.missing(front, [*pair, *thumbs])
            if need > most_s:
                kept, small = self._kept(front, pair), self._small(front, thumbs)
                yield Step(pair=kept, thumbs=small, selected=_place(small, point), words=_ask(need), can_draw=True)
                return
            yield from self._drawn(front, pair, thumbs, owner, current)
        except CancelledError:
            if current():
                yield Step(words=note("stopped", "wait"), can_draw=True)
        except BusyError as error:
            yield Step(words=note(str(error), "wait"), can_draw=True)
        except Exception as error:  # memory that ran out has no class of its own on every device
            yield Step(words=note(in_words(error), "bad"), can_draw=True)

    def _drawn(
        self, front: Front, pair: Wanted, thumbs: Wanted, owner: str, current: Callable[[], bool]
    ) -> Iterator[Step]:
        made: list[tuple[Image.Image | None, str]] = []
        total = len(pair) + len(thumbs)

        def draw(tell: Tell) -> None:
            def on_step(done: int, steps: int) -> None:
                if not current():
                    raise CancelledError("something else is looked at")
                words = f"drawing picture {len(made) + 1} of {total}: step {done} of {steps}"
                tell(words, (len(made) + done / max(1, steps)) / total)

            tell(f"loading {front.model} ...", 0.0)
            for point, picture in self.explorer.draw_all(front, [*pair, *thumbs], owner, on_step):
                made.append((picture, point.label))
                tell(f"drawing picture {min(total, len(made) + 1)} of {total}", len(made) / total)

        sent = 0
        try:
            for words, share in Work(draw).watch():
                if not current():
                    return
                count = len(made)
                small = tuple(made[len(pair) : count]) if count > max(sent, len(pair)) else None
                yield Step(
                    pair=self._both(made) if sent < len(pair) <= count else None,
                    thumbs=small,
                    selected=_place(small or (), pair[1][0]),
                    words=progress_bar(words, share),
                    busy=True,
                )
                sent = count
        except GeneratorExit:  # the page was closed
            self.explorer.device.stop(owner)
            raise
        if current():
            small = tuple(made[len(pair) :])
            yield Step(pair=self._both(made), thumbs=small, selected=_place(small, pair[1][0]))

    def _both(self, made: list[tuple[Image.Image | None, str]]) -> Pair:
        return tuple(picture for picture, _ in made[:2])

    def _kept(self, front: Front, pair: Wanted) -> Pair:
        if self.explorer.missing(front, pair):
            return ()
        return tuple(self.explorer.picture(front, point, shown) for point, shown in pair)

    def _small(self, front: Front, thumbs: Wanted) -> tuple[tuple[Image.Image | None, str], ...]:
        """Those that are kept."""
        there = [(point, shown) for point, shown in thumbs if not self.explorer.missing(front, [(point, shown)])]
        return tuple((self.explorer.picture(front, point, shown), point.label) for point, shown in there)


def _place(thumbs: Sequence[tuple[Any, str]], point: FrontPoint) -> int | None:
    return next((place for place, (_, label) in enumerate(thumbs) if label == point.label), None)


def _ask(need: float) -> str:
    if need == float("inf"):
        return note("Nobody has timed this model yet, so nothing is drawn unasked: it may take long on this machine.")
    span = f"{need:.0f} s" if need < 100 else f"{need / 60:.0f} minutes"
    return note(f"Drawing takes about {span} on the machine of the report, so nothing is drawn unasked.")
