"""The tab Open: reports and plans of other people, from the folder, from an upload, or from the hub."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from dit_accel.app.fronts import models
from dit_accel.app.looks import note
from dit_accel.app.opening import open_path, open_uploads
from dit_accel.app.places import Places
from dit_accel.app.points import Front
from dit_accel.errors import DitAccelError

QUIET: dict[str, Any] = {"api_visibility": "private"}


class OpenTab:
    """Builds the tab and connects it.

    Args:
        places: Says what may be read.
        opened: State with what the visitor has opened.
        explore_models: The list of models in Explore, which gets what was opened.
        tabs: Of the page.
    """

    def __init__(self, places: Places, opened: gr.State, explore_models: gr.Dropdown, tabs: gr.Tabs) -> None:
        self.places = places
        gr.Markdown(
            "A report, a plan, a folder of plans, or a pipeline of your own: it is checked, and joins the models of "
            f"*Explore* and *Generate*. Paths are read from `{places.root.resolve()}` and from nowhere else."
        )
        with gr.Row():
            with gr.Column(min_width=300):
                self.path = gr.Textbox(
                    label="A path in that folder, or a hub id", placeholder="my-plan, report.json, or user/name",
                    max_length=500, elem_id="o-path",
                )  # fmt: skip
                self.model = gr.Textbox(
                    label="Model", info="only of a plan that does not say it", max_length=200, elem_id="o-model"
                )
                self.go = gr.Button("Open", variant="primary", elem_id="o-go")
            with gr.Column(min_width=300):
                self.files = gr.File(
                    label="Or upload: report.json; or dit_accel_plan.json and .safetensors",
                    file_count="multiple", file_types=[".json", ".safetensors"], elem_id="o-files",
                )  # fmt: skip
        self.message = gr.HTML("", padding=False, elem_id="o-message")
        self.look = gr.Button("Look at it in Explore", visible=False, elem_id="o-look")
        self.look.click(lambda: gr.Tabs(selected="explore"), None, tabs, **QUIET)
        shown = [opened, explore_models, self.message, self.look]
        gr.on([self.go.click, self.path.submit], self.from_path, [self.path, self.model, opened], shown, **QUIET)
        self.files.upload(self.from_files, [self.files, self.model, opened], shown, **QUIET)

    def from_path(self, text: str, model: str, opened: Any) -> tuple[Any, Any, str, Any]:
        """Open what was typed."""
        return _opened(lambda: open_path(self.places, text, model), opened)

    def from_files(self, files: list[str] | None, model: str, opened: Any) -> tuple[Any, Any, str, Any]:
        """Open what was uploaded."""
        return _opened(lambda: open_uploads(self.places, files or (), model), opened)


def _opened(read: Callable[[], tuple[str, Front]], opened: Any) -> tuple[Any, Any, str, Any]:
    try:
        name, front = read()
    except DitAccelError as error:
        return gr.skip(), gr.skip(), note(str(error), "bad"), gr.update(visible=False)
    title = f"opened: {name}"
    opened = {**opened, title: front}
    count = sum(point.ratio is not None for point in front.points)
    measured = f"{count} measured points" if count else "nothing is measured yet"
    words = f"'{title}': {front.model}, {measured}. It is chosen in Explore now."
    return opened, gr.update(choices=[*models(), *opened], value=title), note(words), gr.update(visible=True)
