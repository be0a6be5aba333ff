"""The tab Explore: the front, five ways to choose a point of it, and everything that is known of the point."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from dit_accel.app import show
from dit_accel.app.device import BusyError, CancelledError
from dit_accel.app.grid import comparison_grid
from dit_accel.app.looks import note
from dit_accel.app.scatter import BEHAVIOUR
from dit_accel.app.views import AUTO_S, Choice, Explorer, limits, quality_value
from dit_accel.errors import DitAccelError
from dit_accel.plan.facts import metric_facts

LIGHT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
HINT = "Choose a point: click it, drag across times, move a slider, or pick a row or a picture."
SHOWN = (
    "metric", "rivals", "message", "plot", "time", "quality", "verdict", "prompt", "code", "heat", "table", "notes",
    "gallery",
)  # fmt: skip
HEAVY: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1, "api_visibility": "private"}


class ExploreTab:
    """Builds the tab and connects it.

    Args:
        explorer: Answers.
        model: What is looked at first.
        opened: State with what the visitor has opened.
    """

    def __init__(self, explorer: Explorer, model: str, opened: gr.State) -> None:
        self.explorer, self.opened = explorer, opened
        self._build(explorer.first(model))
        self._connect()

    def _build(self, first: Choice) -> None:
        first_values = self._values(first, None)

        def of(name: str) -> dict[str, Any]:
            return first_values[name]

        with gr.Row():
            self.model = gr.Dropdown(
                self.explorer.library.names(), value=first.model, label="Model", elem_id="model", scale=2
            )
            self.metric = gr.Dropdown(**of("metric"), label="Error", elem_id="metric", scale=2)
            self.rivals = gr.Checkbox(**of("rivals"), label="Show rivals", elem_id="rivals", scale=1, min_width=120)
        self.choice = gr.State(first)
        self.message = gr.HTML(**of("message"), elem_id="explore-message")
        with gr.Row():
            with gr.Column(scale=6, min_width=330):
                self.plot = gr.HTML(**of("plot"), js_on_load=BEHAVIOUR, elem_id="plot")
                gr.Markdown(HINT, elem_id="hint")
                self.time = gr.Slider(**of("time"), elem_id="time")
                self.quality = gr.Slider(**of("quality"), elem_id="quality")
                self.code = gr.Code(
                    **of("code"),
                    label="Take it home: runs as pasted",
                    language="python",
                    elem_id="code",
                    wrap_lines=True,
                )
            with gr.Column(scale=5, min_width=330):
                self.verdict = gr.HTML(**of("verdict"), elem_id="verdict")
                self.slider = gr.ImageSlider(
                    label="plain | chosen", elem_id="pair", elem_classes="pixels", type="pil", max_height=420,
                    interactive=False, format="png",
                )  # fmt: skip
                self.prompt = gr.Radio(
                    **of("prompt"), label="Prompt: the worst of the measurement first", elem_id="prompt"
                )
                self.drawing = gr.HTML("", elem_id="drawing")
                self.draw = gr.Button("Draw the pictures", visible=False, elem_id="draw", size="sm")
        self.gallery = gr.Gallery(
            label="The same prompt at every point", elem_id="thumbs", elem_classes="pixels", columns=5,
            fit_columns=False, height="auto", allow_preview=False, object_fit="contain", format="png", type="pil",
            interactive=False, buttons=["download", "fullscreen"],
        )  # fmt: skip
        self.heat = gr.HTML(**of("heat"), elem_id="heat")
        self.table = gr.Dataframe(
            **of("table"), headers=list(show.COLUMNS), datatype="str", type="array", label="All points",
            elem_id="table", interactive=False, wrap=True, max_height=420,
        )  # fmt: skip
        with gr.Row():
            self.grid = gr.Button("Draw a comparison grid", elem_id="grid", size="sm")
            self.grid_file = gr.DownloadButton("Save the grid", visible=False, elem_id="grid-file", size="sm")
        self.notes = gr.HTML(**of("notes"), elem_id="notes")

    @property
    def shown(self) -> list[Any]:
        """Outputs of every choice: the choice, and what :meth:`_values` names."""
        return [self.choice, *(getattr(self, name) for name in SHOWN)]

    def _connect(self) -> None:
        asked, shown = [self.choice, self.opened], self.shown
        pictures = [self.slider, self.gallery, self.drawing, self.draw]

        def then_draw(event: Any) -> None:
            event.then(
                self.draw_pictures, [*asked, self.prompt], pictures, show_progress="hidden",
                trigger_mode="always_last", **HEAVY,
            )  # fmt: skip

        gestures = [
            self.plot.select(self.on_point, asked, shown, **LIGHT),
            self.plot.input(self.on_brush, asked, shown, **LIGHT),
            self.time.release(self.on_time, [self.time, *asked], shown, **LIGHT),
            self.quality.release(self.on_quality, [self.quality, *asked], shown, **LIGHT),
            self.table.select(self.on_row, asked, shown, **LIGHT),
            self.gallery.select(self.on_thumbnail, asked, shown, **LIGHT),
            self.metric.input(self.on_metric, [self.metric, *asked], shown, **LIGHT),
            self.rivals.input(self.on_rivals, [self.rivals, *asked], shown, **LIGHT),
        ]
        for event in gestures:
            then_draw(event)
        changed = self.model.change(self.on_model, [self.model, self.opened], shown, **LIGHT)
        then_draw(changed.then(self.verify, asked, shown, **LIGHT))
        then_draw(self.prompt.input(self.stop_drawing, None, None, **LIGHT))
        self.draw.click(self.draw_now, [*asked, self.prompt], pictures, show_progress="hidden", **HEAVY)
        self.grid.click(self.save_grid, asked, [self.grid_file, self.drawing], **HEAVY)

    def on_load(self, page: gr.Blocks) -> None:
        """The first point is part of the page; once it is up import torch, check certificates, and draw."""
        asked = [self.choice, self.opened]
        second = page.load(self.verify, asked, self.shown, **LIGHT)
        pictures = [self.slider, self.gallery, self.drawing, self.draw]
        second.then(self.draw_pictures, [*asked, self.prompt], pictures, show_progress="hidden", **HEAVY)

    def _gesture(self, how: str, value: Any, choice: Choice, opened: Any, request: gr.Request) -> list[Any]:
        self.explorer.device.stop(owner_of(request))
        try:
            after = self.explorer.chosen(choice, how, value, opened)
        except DitAccelError as error:
            return self._shown(choice, opened, note(str(error), "bad"))
        return self._shown(after, opened)

    def on_point(self, choice: Choice, opened: Any, event: gr.EventData, request: gr.Request) -> list[Any]:
        """A point of the plot was clicked."""
        return self._gesture("point", event._data["key"], choice, opened, request)

    def on_brush(self, choice: Choice, opened: Any, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Times were brushed."""
        return self._gesture("brush", (event._data["low"], event._data["high"]), choice, opened, request)

    def on_time(self, seconds: float, choice: Choice, opened: Any, request: gr.Request) -> list[Any]:
        """The slider for time was let go."""
        return self._gesture("time", seconds, choice, opened, request)

    def on_quality(self, limit: float, choice: Choice, opened: Any, request: gr.Request) -> list[Any]:
        """The slider for quality was let go."""
        return self._gesture("quality", limit, choice, opened, request)

    def on_row(self, choice: Choice, opened: Any, event: gr.SelectData, request: gr.Request) -> list[Any]:
        """A row of the table was clicked; it may have been sorted, so its label counts."""
        return self._gesture("row", event.row_value[show.LABEL_COLUMN], choice, opened, request)

    def on_thumbnail(self, choice: Choice, opened: Any, event: gr.SelectData, request: gr.Request) -> list[Any]:
        """A thumbnail was clicked."""
        return self._gesture("thumbnail", event.index, choice, opened, request)

    def on_metric(self, metric: str, choice: Choice, opened: Any) -> list[Any]:
        """Another error on the axis."""
        return self._shown(replace(choice, metric=metric), opened)

    def on_rivals(self, rivals: bool, choice: Choice, opened: Any) -> list[Any]:
        """Rivals are shown, or not any more."""
        return self._shown(replace(choice, rivals=rivals), opened)

    def on_model(self, model: str, opened: Any, request: gr.Request) -> list[Any]:
        """Another model."""
        self.explorer.device.stop(owner_of(request))
        return self._shown(self.explorer.first(model, opened), opened)

    def verify(self, choice: Choice, opened: Any) -> list[Any]:
        """The same choice, once certificates are held against their plans."""
        if not opened or choice.model not in opened:
            self.explorer.library.verify(choice.model)
        return self._shown(choice, opened)

    def stop_drawing(self, request: gr.Request) -> None:
        """What is drawn for this visitor is not wanted any more."""
        self.explorer.device.stop(owner_of(request))

    def _shown(self, choice: Choice, opened: Any, message: str = "") -> list[Any]:
        front, point = self.explorer.front_and_point(choice, opened)
        metric = choice.metric if choice.metric in front.metrics else _metrics(front)[0][1]
        settled = replace(choice, key=point.key, metric=metric)
        values = self._values(settled, opened, message)
        return [settled, *(gr.update(**values[name]) for name in SHOWN)]

    def _values(self, choice: Choice, opened: Any, message: str = "") -> dict[str, dict[str, Any]]:
        """What each component shows of a choice."""
        front, point = self.explorer.front_and_point(choice, opened)
        metric = choice.metric
        (fastest, slowest), (low, high) = limits(front, metric)
        facts, place, seconds = metric_facts(metric), quality_value(front, point, metric), front.time_s(point)
        bound = "at least" if facts.higher_is_better else "at most"
        prompts = list(enumerate(self.explorer.prompts(front, point)))
        thumbs = [each.key for each in show.thumbnails(front)]
        return {
            "metric": {"choices": _metrics(front), "value": metric},
            "rivals": {"value": choice.rivals},
            "message": {"value": message},
            "plot": {"value": show.plot(front, metric, rivals=choice.rivals, chosen=point.key)},
            "time": {
                **show.slider(fastest, slowest, slowest if seconds is None else seconds),
                "label": f"Time {'of a video' if front.video else 'of an image'} at most, s",
            },
            "quality": {
                **show.slider(low, high, low if place is None else place, fine=metric in show.FLOORS),
                "label": f"{facts.label}{',' + facts.unit if facts.unit else ''} {bound}",
            },
            "verdict": {"value": show.verdict(front, point, metric)},
            "prompt": {"choices": [(show.prompt_words(each), number) for number, each in prompts], "value": 0},
            "code": {"value": show.code(front, point)},
            "heat": {"value": self.explorer.heat(point)},
            "table": {"value": show.table(front, metric, rivals=choice.rivals, chosen=point.key)},
            "notes": {"value": "".join(map(note, front.notes)) if choice.rivals else ""},
            "gallery": {"selected_index": thumbs.index(point.key) if point.key in thumbs else None},
        }

    def draw_pictures(self, choice: Choice, opened: Any, place: Any, request: gr.Request) -> Iterator[Any]:
        """The pair of the chosen prompt, then a thumbnail of every point; only where that is quick, or kept."""
        yield from self._drawn(choice, opened, place, owner_of(request), AUTO_S)

    def draw_now(self, choice: Choice, opened: Any, place: Any, request: gr.Request) -> Iterator[Any]:
        """The same, however long it takes."""
        yield from self._drawn(choice, opened, place, owner_of(request), float("inf"))

    def _drawn(self, choice: Choice, opened: Any, place: Any, owner: str, most_s: float) -> Iterator[Any]:
        front, point = self.explorer.front_and_point(choice, opened)
        prompts = self.explorer.prompts(front, point)
        shown = prompts[place if isinstance(place, int) and place < len(prompts) else 0]
        pair = [(front.points[0], shown), (point, shown)]
        thumbs = [(each, self.explorer.prompts(front, front.points[0])[-1]) for each in show.thumbnails(front)]
        need = self.explorer.missing(front, [*pair, *thumbs])
        hidden = gr.update(visible=False)
        if need > most_s:
            words = f"Drawing takes about {need:.0f} s on the machine of the report."
            yield self._kept_pair(front, pair), gr.skip(), note(words), gr.update(visible=True)
            return
        if not point.can_run:
            yield None, gr.skip(), note("This is a technique of others; the explorer does not run it."), hidden
            return
        try:
            if need:
                yield gr.skip(), gr.skip(), note(f"drawing with {choice.model} ...", "wait"), hidden
            pictures = [picture for _, picture in self.explorer.draw_all(front, pair, owner)]
            yield tuple(pictures), gr.skip(), note("drawing thumbnails ...", "wait") if need else "", hidden
            small: list[Any] = []
            for each, picture in self.explorer.draw_all(front, thumbs, owner):
                small.append((picture, each.label))
                if need:
                    words = f"drawing thumbnails: {len(small)} of {len(thumbs)}"
                    yield gr.skip(), gr.update(value=small), note(words, "wait"), hidden
            yield gr.skip(), gr.update(value=small), "", hidden
        except CancelledError:
            return
        except BusyError as error:
            yield gr.skip(), gr.skip(), note(str(error), "wait"), gr.update(visible=True)
        except DitAccelError as error:
            yield gr.skip(), gr.skip(), note(str(error), "bad"), gr.update(visible=True)

    def _kept_pair(self, front: Any, pair: list[Any]) -> Any:
        if self.explorer.missing(front, pair):
            return None
        return tuple(self.explorer.picture(front, point, shown) for point, shown in pair)

    def save_grid(self, choice: Choice, opened: Any, request: gr.Request) -> Iterator[Any]:
        """Prompts by points as one picture with its numbers."""
        front, _ = self.explorer.front_and_point(choice, opened)
        yield gr.skip(), note("drawing the grid ...", "wait")
        try:
            path = comparison_grid(self.explorer, front, choice.metric, owner_of(request))
        except DitAccelError as error:
            yield gr.skip(), note(str(error), "bad")
            return
        yield gr.update(value=str(path), visible=True), ""


def owner_of(request: gr.Request) -> str:
    """The visit that an event belongs to."""
    return str(getattr(request, "session_hash", "") or "")


def _metrics(front: Any) -> list[tuple[str, str]]:
    return [(show.metric_title(name), name) for name in front.metrics] or [(show.metric_title("psnr_db"), "psnr_db")]
