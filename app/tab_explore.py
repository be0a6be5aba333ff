"""The tab Explore: the front, six ways to choose a point of it, and everything that is known of the point."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from dit_accel.app import show
from dit_accel.app.dial import BEHAVIOUR as DIAL
from dit_accel.app.drawing import Drawing, Step
from dit_accel.app.explore_values import SET_BY_HAND, SHOWN, settled, values_of
from dit_accel.app.faults import in_words
from dit_accel.app.grid import comparison_grid
from dit_accel.app.looks import note, progress_bar
from dit_accel.app.scatter import BEHAVIOUR
from dit_accel.app.views import AUTO_S, Choice, Explorer
from dit_accel.app.visits import Visits
from dit_accel.app.work import Work
from dit_accel.errors import DitAccelError

LIGHT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
HEAVY: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1, "api_visibility": "private"}

FIRST = "The pictures follow, once torch and the model are loaded ..."


class ExploreTab:
    """Builds the tab and connects it.

    Args:
        explorer: Answers.
        model: What is looked at first.
        opened: State with what the visitor has opened.
    """

    def __init__(self, explorer: Explorer, model: str, opened: gr.State) -> None:
        self.explorer, self.opened = explorer, opened
        self.visits = Visits()
        self.drawing_of = Drawing(explorer, self.visits)
        first = explorer.first(model)
        self._build(first, values_of(explorer, first, None))
        self._connect()

    def _build(self, first: Choice, values: dict[str, dict[str, Any]]) -> None:
        with gr.Row(elem_id="asked"):
            self.model = gr.Dropdown(
                self.explorer.library.names(), value=first.model, label="Model", elem_id="model", scale=2
            )
            self.metric = gr.Dropdown(**values["metric"], label="Error", elem_id="metric", scale=2)
            self.rivals = gr.Checkbox(
                **values["rivals"], label="Show rivals", elem_id="rivals", scale=1, min_width=120
            )
        self.choice = gr.State(first)
        self.message = gr.HTML(**values["message"], elem_id="explore-message")
        with gr.Row():
            with gr.Column(scale=6, min_width=330):
                self.plot = gr.HTML(**values["plot"], js_on_load=BEHAVIOUR, padding=False, elem_id="plot")
                self.hint = gr.Markdown(**values["hint"], elem_id="hint")
                with gr.Row(elem_id="limits"):
                    self.time = gr.HTML(
                        **values["time"], js_on_load=DIAL, padding=False, min_width=240, elem_id="time"
                    )
                    self.quality = gr.HTML(
                        **values["quality"], js_on_load=DIAL, padding=False, min_width=240, elem_id="quality"
                    )
                self.code = gr.Code(
                    **values["code"], label="Take it home: runs as pasted", language="python", elem_id="code",
                    wrap_lines=True, show_line_numbers=False, lines=1, interactive=False,
                )  # fmt: skip
            with gr.Column(scale=5, min_width=330):
                self.verdict = gr.HTML(**values["verdict"], padding=False, elem_id="verdict")
                self.slider = gr.ImageSlider(
                    label="plain | chosen", elem_id="pair", elem_classes="pixels", type="pil", max_height=380,
                    interactive=False, format="png", buttons=["download", "fullscreen"],
                )  # fmt: skip
                self.drawing = gr.HTML(progress_bar(FIRST, 0.0), padding=False, elem_id="drawing")
                with gr.Row():
                    self.draw = gr.Button("Draw the pictures", visible=False, elem_id="draw", size="sm")
                    self.halt = gr.Button("Stop drawing", visible=False, elem_id="halt", size="sm")
                self.prompt = gr.Radio(**values["prompt"], elem_id="prompt")
        gr.Markdown("### The same prompt at every point", elem_id="thumbs-title")
        self.gallery = gr.Gallery(
            show_label=False, elem_id="thumbs", elem_classes="pixels", columns=8, fit_columns=False, height="auto",
            allow_preview=False, object_fit="contain", format="png", type="pil", interactive=False, buttons=[],
        )  # fmt: skip
        gr.Markdown("### The plan, step by step", elem_id="heat-title")
        self.heat = gr.HTML(**values["heat"], padding=False, elem_id="heat")
        gr.Markdown("### All points", elem_id="table-title")
        self.table = gr.Dataframe(
            **values["table"], headers=list(show.COLUMNS), datatype="str", type="array", show_label=False,
            elem_id="table", interactive=False, wrap=True, max_height=420,
        )  # fmt: skip
        with gr.Row():
            self.grid = gr.Button("Draw a comparison grid: prompts by points", elem_id="grid", size="sm")
            self.grid_file = gr.DownloadButton("Save the grid", visible=False, elem_id="grid-file", size="sm")
        self.grid_words = gr.HTML("", padding=False, elem_id="grid-words")
        self.notes = gr.HTML(**values["notes"], padding=False, elem_id="notes")

    @property
    def shown(self) -> list[Any]:
        """Outputs of every choice: the choice, and what :func:`values_of` names."""
        return [self.choice, *(getattr(self, name) for name in SHOWN)]

    @property
    def pictures(self) -> list[Any]:
        """Outputs of every drawing."""
        return [self.slider, self.gallery, self.drawing, self.draw, self.halt]

    def _connect(self) -> None:
        asked, shown = [self.choice, self.opened], self.shown
        gestures = [
            self.plot.select(self.on_point, asked, shown, **LIGHT),
            self.plot.input(self.on_brush, asked, shown, **LIGHT),
            self.time.input(self.on_time, asked, shown, **LIGHT),
            self.quality.input(self.on_quality, asked, shown, **LIGHT),
            self.table.select(self.on_row, asked, shown, **LIGHT),
            self.gallery.select(self.on_thumbnail, asked, shown, **LIGHT),
            self.metric.input(self.on_metric, [self.metric, *asked], shown, **LIGHT),
            self.rivals.input(self.on_rivals, [self.rivals, *asked], shown, **LIGHT),
        ]
        for event in gestures:
            self._then_draw(event)
        changed = self.model.change(self.on_model, [self.model, self.opened], shown, **LIGHT)
        self._then_draw(self._then_verify(changed))
        self._then_draw(self.prompt.input(self.on_prompt, [self.choice, self.prompt], None, **LIGHT))
        self.draw.click(self.draw_now, [*asked, self.prompt], self.pictures, show_progress="hidden", **HEAVY)
        self.halt.click(self.stop_drawing, None, None, queue=False, **LIGHT)
        self.grid.click(self.save_grid, asked, [self.grid_file, self.grid_words], show_progress="hidden", **HEAVY)

    def on_load(self, page: gr.Blocks) -> None:
        """The first point is part of the page; once it is up import torch, check certificates, and draw."""
        asked = [self.choice, self.opened]
        woken = page.load(self.wake, asked, None, **LIGHT)
        self._then_draw(woken.then(self.refresh, asked, self.shown, **LIGHT))

    def _then_verify(self, event: Any) -> Any:
        asked = [self.choice, self.opened]
        return event.then(self.wake, asked, None, **LIGHT).then(self.refresh, asked, self.shown, **LIGHT)

    def _then_draw(self, event: Any) -> None:
        event.then(
            self.draw_pictures, [self.choice, self.opened, self.prompt], self.pictures, show_progress="hidden",
            trigger_mode="always_last", **HEAVY,
        )  # fmt: skip

    def _gesture(self, how: str, value: Any, choice: Choice, opened: Any, request: gr.Request) -> list[Any]:
        self.explorer.device.stop(owner_of(request))
        try:
            after = self.explorer.chosen(choice, how, value, opened)
        except DitAccelError as error:
            return self._shown(choice, opened, request, note(str(error), "bad"))
        return self._shown(after, opened, request)

    def on_point(self, choice: Choice, opened: Any, event: gr.EventData, request: gr.Request) -> list[Any]:
        """A point of the plot was clicked."""
        return self._gesture("point", event._data["key"], choice, opened, request)

    def on_brush(self, choice: Choice, opened: Any, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Times were brushed."""
        return self._gesture("brush", (event._data["low"], event._data["high"]), choice, opened, request)

    def on_time(self, choice: Choice, opened: Any, event: gr.EventData, request: gr.Request) -> list[Any]:
        """A time was asked for."""
        return self._gesture("time", event._data["value"], choice, opened, request)

    def on_quality(self, choice: Choice, opened: Any, event: gr.EventData, request: gr.Request) -> list[Any]:
        """A quality was asked for."""
        return self._gesture("quality", event._data["value"], choice, opened, request)

    def on_row(self, choice: Choice, opened: Any, event: gr.SelectData, request: gr.Request) -> list[Any]:
        """A row of the table was clicked; it may have been sorted, so its label counts."""
        return self._gesture("row", event.row_value[show.LABEL_COLUMN], choice, opened, request)

    def on_thumbnail(self, choice: Choice, opened: Any, event: gr.SelectData, request: gr.Request) -> list[Any]:
        """A thumbnail was clicked; they may not all be drawn yet, so its label counts."""
        return self._gesture("thumbnail", event.value["caption"], choice, opened, request)

    def on_metric(self, metric: str, choice: Choice, opened: Any, request: gr.Request) -> list[Any]:
        """Another error on the axis."""
        return self._shown(replace(choice, metric=metric), opened, request)

    def on_rivals(self, rivals: bool, choice: Choice, opened: Any, request: gr.Request) -> list[Any]:
        """Rivals are shown, or not any more."""
        return self._shown(replace(choice, rivals=rivals), opened, request)

    def on_model(self, model: str, opened: Any, request: gr.Request) -> list[Any]:
        """Another model."""
        self.explorer.device.stop(owner_of(request))
        return self._shown(self.explorer.first(model, opened), opened, request)

    def on_prompt(self, choice: Choice, place: Any, request: gr.Request) -> None:
        """Another prompt: what is drawn for this visitor is not wanted any more."""
        self.visits.look(owner_of(request), (choice, place if isinstance(place, int) else 0))
        self.explorer.device.stop(owner_of(request))

    def wake(self, choice: Choice, opened: Any) -> None:
        """Import torch, and hold certificates against their plans. It takes seconds, so it writes nothing itself."""
        self.explorer.wake()
        if not opened or choice.model not in opened:
            self.explorer.library.verify(choice.model)

    def refresh(self, choice: Choice, opened: Any, request: gr.Request) -> list[Any]:
        """What is known now of what is looked at now; nothing where the visitor was quicker."""
        before = self.visits.latest(owner_of(request)) or (settled(self.explorer, choice, opened), 0)
        latest, place = before
        if opened is None or latest.model not in self.explorer.library.names(opened):
            return [gr.skip()] * (1 + len(SHOWN))
        values = values_of(self.explorer, latest, opened, place=place)
        if not self.visits.is_current(owner_of(request), before):
            return [gr.skip()] * (1 + len(SHOWN))
        return [latest, *(gr.skip() if name in SET_BY_HAND else gr.update(**values[name]) for name in SHOWN)]

    def _shown(self, choice: Choice, opened: Any, request: gr.Request, message: str = "") -> list[Any]:
        now = settled(self.explorer, choice, opened)
        self.visits.look(owner_of(request), (now, 0))
        values = values_of(self.explorer, now, opened, message)
        return [now, *(gr.update(**values[name]) for name in SHOWN)]

    def draw_pictures(self, choice: Choice, opened: Any, place: Any, request: gr.Request) -> Iterator[Any]:
        """The pair of the chosen prompt, then a thumbnail of every point; only where that is quick, or kept."""
        yield from map(_updates, self.drawing_of.steps(choice, opened, place, owner_of(request), AUTO_S))

    def draw_now(self, choice: Choice, opened: Any, place: Any, request: gr.Request) -> Iterator[Any]:
        """The same, however long it takes."""
        yield from map(_updates, self.drawing_of.steps(choice, opened, place, owner_of(request), float("inf")))

    def stop_drawing(self, request: gr.Request) -> None:
        """Stop this visitor's drawing at its next step."""
        self.explorer.device.stop(owner_of(request))

    def save_grid(self, choice: Choice, opened: Any, request: gr.Request) -> Iterator[Any]:
        """Prompts by points as one picture with its numbers."""
        front, _ = self.explorer.front_and_point(choice, opened)
        owner = owner_of(request)
        yield gr.update(visible=False), progress_bar("drawing the grid ...", 0.0)
        work = Work(lambda tell: comparison_grid(self.explorer, front, choice.metric, owner, tell))
        try:
            for words, share in work.watch():
                yield gr.skip(), progress_bar(words, share)
            path = work.result
        except GeneratorExit:  # the page was closed
            self.explorer.device.stop(owner)
            raise
        except Exception as error:  # memory that ran out has no class of its own on every device
            yield gr.skip(), note(in_words(error), "bad")
            return
        yield gr.update(value=str(path), visible=True), note(f"{path.name} is ready")


def owner_of(request: gr.Request) -> str:
    """The visit that an event belongs to."""
    return str(getattr(request, "session_hash", "") or "")


def _updates(step: Step) -> list[Any]:
    """A step of a drawing, for :attr:`ExploreTab.pictures`."""
    pair = gr.skip() if step.pair is None else step.pair or None
    thumbs = gr.skip() if step.thumbs is None else gr.update(value=list(step.thumbs), selected_index=step.selected)
    return [pair, thumbs, step.words, gr.update(visible=step.can_draw), gr.update(visible=step.busy)]
