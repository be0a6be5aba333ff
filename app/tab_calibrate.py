"""The tab Calibrate: begin a search, watch it grow, stop it, go on with it, and look at what it found."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dit_accel.app.axes import Axis
from dit_accel.app.device import Device
from dit_accel.app.fronts import models
from dit_accel.app.looks import note, progress_bar
from dit_accel.app.numbers import number_in, optional_field, whole_in
from dit_accel.app.opening import open_search
from dit_accel.app.places import Places
from dit_accel.app.scatter import Mark, scatter
from dit_accel.app.searches import OVER, Request, Search, Status, running_in, searches_in
from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.pipelines.loading import folder_of_model, name_of_model

TICK_S = 2.0
MAX_MINUTES = 24 * 60
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
CLICKS = "Choose a model, say how long, press *Start*. It goes on when this page is closed, and is found again."
NO_SEARCH = "No search yet. Once one runs, its front grows here while you watch."


class CalibrateTab:
    """Builds the tab and connects it.

    Args:
        places: Where searches lie, and where models may come from.
        device: What a search runs on.
        opened: State with what the visitor has opened.
        explore_models: The list of models in Explore, which gets what was found.
        tabs: Of the page.
        model: First choice.
    """

    def __init__(
        self, places: Places, device: Device, opened: gr.State, explore_models: gr.Dropdown, tabs: gr.Tabs, model: str
    ) -> None:
        self.places, self.device = places, device
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                gr.Markdown(CLICKS)
                self.model = gr.Dropdown(
                    list(models()), value=model, label="Model: an embedded one, a folder or a hub id",
                    allow_custom_value=True, elem_id="c-model",
                )  # fmt: skip
                self.minutes = gr.Number(
                    5, label="Minutes to search", minimum=0.05, maximum=MAX_MINUTES, elem_id="c-minutes"
                )
                self.certify = gr.Checkbox(
                    True, label="Then certify the chosen plan on held-out prompts", elem_id="c-certify",
                    info="Without limits below: the most faithful one that saves half of the evaluations.",
                )  # fmt: skip
                with gr.Accordion("What to choose, and how much to measure", open=False):
                    self.speedup = optional_field("Evaluations saved at least, times", "c-speedup", "any")
                    self.psnr = optional_field("PSNR at least, dB", "c-psnr", "any")
                    self.prompts = optional_field("Search prompts", "c-prompts", "32 images or 12 videos")
                    self.steps = optional_field("Steps", "c-steps")
                with gr.Row():
                    self.start = gr.Button("Start", variant="primary", elem_id="c-start")
                    self.stop = gr.Button("Stop", elem_id="c-stop", interactive=False)
                self.message = gr.HTML("", elem_id="c-message")
            with gr.Column(scale=3, min_width=330):
                self.search = gr.Dropdown([], label="Search", elem_id="c-search", allow_custom_value=False)
                self.status = gr.HTML(note(NO_SEARCH), elem_id="c-status")
                self.plot = gr.HTML("", elem_id="c-plot")
                self.volume = gr.HTML("", elem_id="c-volume")
                self.look = gr.Button("Look at its plans in Explore", visible=False, elem_id="c-look")
        self.timer = gr.Timer(TICK_S, active=False)
        self._connect(opened, explore_models, tabs)

    @property
    def watched(self) -> list[Any]:
        """Outputs of every look at a search."""
        return [self.status, self.plot, self.volume, self.stop, self.look, self.timer]

    def _connect(self, opened: gr.State, explore_models: gr.Dropdown, tabs: gr.Tabs) -> None:
        asked = [self.model, self.minutes, self.certify, self.speedup, self.psnr, self.prompts, self.steps]
        begun = self.start.click(
            self.begin, asked, [self.search, self.message], concurrency_id="device", concurrency_limit=1, **QUIET
        )
        begun.then(self.watch, self.search, self.watched, **QUIET)
        self.stop.click(self.end, self.search, self.message, queue=False, **QUIET)
        self.timer.tick(self.watch, self.search, self.watched, **QUIET)
        self.search.input(self.watch, self.search, self.watched, **QUIET)
        found = [opened, explore_models, self.message, tabs]
        self.look.click(self.open, [self.search, opened], found, **QUIET)

    def on_load(self, page: gr.Blocks) -> None:
        """A page that is loaded anew finds the search that runs, or else the last one."""
        found = page.load(self.find, None, self.search, **QUIET)
        found.then(self.watch, self.search, self.watched, **QUIET)

    def find(self) -> Any:
        """Searches, the running one first chosen."""
        names = [search.name for search in searches_in(self.places.searches)]
        running = running_in(self.places.searches)
        return gr.update(choices=names, value=running.name if running else next(iter(names), None))

    def begin(
        self,
        model: str,
        minutes: float | None,
        certify: bool,
        speedup: str,
        psnr: str,
        prompts: str,
        steps: str,
    ) -> tuple[Any, str]:
        """Start a search, or go on with the one of this model."""
        try:
            search = self._begun(model, minutes, certify, speedup, psnr, prompts, steps)
        except DitAccelError as error:
            return gr.skip(), note(str(error), "bad")
        names = [each.name for each in searches_in(self.places.searches)]
        return gr.update(choices=sorted({*names, search.name}), value=search.name), ""

    def _begun(
        self, model: str, minutes: Any, certify: bool, speedup: Any, psnr: Any, prompts: Any, steps: Any
    ) -> Search:
        source = self.places.model(model)
        name = name_of_model(source)
        if not minutes or minutes <= 0:
            raise ConfigError("say how many minutes to search")
        with self.device.job(f"starting a search of {name}"):
            search = Search(self.places.searches / folder_of_model(source))
            search.start(
                Request(
                    model=source,
                    name=name,
                    budget_s=60.0 * min(float(minutes), MAX_MINUTES),
                    min_speedup=number_in(speedup, "Evaluations saved", 1, 1000),
                    min_psnr=number_in(psnr, "PSNR", 0, 100),
                    certify=certify,
                    num_prompts=whole_in(prompts, "Search prompts", 2, 1000),
                    steps=whole_in(steps, "Steps", 4, 1000),
                    device=self.device.name,
                    threads=self.device.threads,
                )
            )
        return search

    def end(self, name: str | None) -> str:
        """Ask a search to stop."""
        search = self._search(name)
        if search is None or not search.running:
            return note("that search is not running")
        search.stop()
        return note("it stops after the plan that it is judging, and saves the front", "wait")

    def watch(self, name: str | None) -> tuple[Any, ...]:
        """How a search stands."""
        search = self._search(name)
        if search is None:
            return note(NO_SEARCH), "", "", gr.update(interactive=False), gr.update(visible=False), gr.skip()
        status = search.status()
        running = status.state not in OVER
        plans = bool(search.plans())
        return (
            status_words(search.name, status),
            search_plot(search),
            volume_plot(status.volumes),
            gr.update(interactive=running),
            gr.update(visible=plans and not running),
            gr.update(active=running),
        )

    def open(self, name: str | None, opened: Any) -> tuple[Any, Any, str, Any]:
        """Put what a search has found among the models of Explore."""
        search = self._search(name)
        if search is None:
            return gr.skip(), gr.skip(), note(NO_SEARCH, "bad"), gr.skip()
        request = search.request
        try:
            front = open_search(search.folder, request.model if request else search.name)
        except DitAccelError as error:
            return gr.skip(), gr.skip(), note(str(error), "bad"), gr.skip()
        title = f"search: {search.name}"
        opened = {**opened, title: front}
        return (
            opened,
            gr.update(choices=[*models(), *opened], value=title),
            note(f"'{title}' is chosen in Explore now"),
            gr.Tabs(selected="explore"),
        )

    def _search(self, name: str | None) -> Search | None:
        """By its name among those that are there, never by a path."""
        return next((search for search in searches_in(self.places.searches) if search.name == name), None)


def status_words(name: str, status: Status) -> str:
    """A sentence, with a bar while it runs."""
    if status.state in OVER:
        words = {"done": "done", "stopped": "stopped; Start goes on with it", "failed": "failed"}[status.state]
        return note(f"{name}: {words}. {status.words}", "bad" if status.state == "failed" else "")
    return progress_bar(f"{name}: {status.state}. {status.words}", status.done_frac)


def search_plot(search: Search) -> str:
    """Everything that was judged: evaluations that are computed against PSNR, on search prompts."""
    points, front = search.points(), search.front()
    marks = [
        Mark(
            key=f"{number}",
            label=f"{len(point.computed)}",
            kind="ours" if point in front else "fewer_steps",
            x=float(len(point.computed)),
            y=point.psnr_db,
            title=f"{len(point.computed)} of {point.num_steps} computed: {point.psnr_db:.1f} dB, "
            f"worst tenth {point.worst_db:.1f} dB",
            beaten=point not in front,
        )
        for number, point in enumerate(points)
    ]
    steps = f" of {points[0].num_steps}" if points else ""
    return scatter(
        marks,
        title="Judged on search prompts: PSNR, dB (higher is better)",
        x_title=f"denoiser evaluations computed{steps} (fewer is faster)",
        y_title="PSNR to the plain run, dB (higher is better)",
        line=[mark.key for mark in marks if not mark.beaten],
        y_log=False,
        good_is_low=False,
        legend={"ours": "the front", "fewer_steps": "beaten"},
        x_whole=True,
    )


def volume_plot(volumes: Sequence[float]) -> str:
    """Hypervolume after each generation: it levels off when searching on is of little use."""
    if len(volumes) < 2:
        return ""
    width, height = 640, 90
    x = Axis(low=0, high=len(volumes) - 1, start=74, end=width - 20)
    y = Axis.around(volumes, height - 8, 26, log=False)
    path = " ".join(f"{x.at(place):.1f},{y.at(value):.1f}" for place, value in enumerate(volumes))
    words = f"hypervolume {volumes[-1]:.3f} after {len(volumes)} generations"
    return (
        f'<svg class="front" viewBox="0 0 {width} {height}" role="img" aria-label="{words}">'
        f'<text class="tick" x="74" y="16">{words}; level means that more time brings little</text>'
        f'<polyline class="line" points="{path}"/></svg>'
    )
