"""The page: its tabs put together, with nothing measured or decided here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dit_accel.app.api import add_api
from dit_accel.app.device import Device
from dit_accel.app.library import Library
from dit_accel.app.looks import CSS
from dit_accel.app.lost import HEAD
from dit_accel.app.pictures import Kept
from dit_accel.app.places import Places
from dit_accel.app.searches import running_in
from dit_accel.app.tab_calibrate import CalibrateTab
from dit_accel.app.tab_explore import ExploreTab
from dit_accel.app.tab_generate import GenerateTab
from dit_accel.app.tab_open import OpenTab
from dit_accel.app.views import Explorer

TITLE = "dit-accel explorer"
HEADER = (
    '<div id="header"><h1>dit-accel explorer</h1>'
    "<p>How much faster, and at what price? Look, choose a point, take the code home.</p></div>"
)
MAX_UPLOAD = "64mb"
QUEUE_SIZE = 32
DEFAULT_MODEL = "emoji-flux"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSettings:
    """How the explorer was started.

    Attributes:
        root: The folder that visitors may read reports, plans and models from.
        output: For pictures and searches.
        model: What is looked at first.
        device: As for ``pick_device``.
        threads: Of torch.
        reports: Folders with reports of rivals; ``None``: those of a checkout.
    """

    root: Path = Path()
    output: Path = Path("outputs")
    model: str = DEFAULT_MODEL
    device: str = "auto"
    threads: int = 1
    reports: tuple[Path, ...] | None = None


def build_page(settings: AppSettings) -> gr.Blocks:
    """The whole page; :func:`launch_options` belong to its ``launch``."""
    places = Places(root=settings.root, output=settings.output)

    def others() -> str:
        search = running_in(places.searches)
        return "" if search is None else f"the search '{search.name}' runs on it"

    device = Device(places=places, name=settings.device, threads=settings.threads, others=others)
    explorer = Explorer(Library(settings.reports), device, Kept(places.pictures))
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML(HEADER, padding=False)
        opened = gr.State({})
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Explore", id="explore"):
                explore = ExploreTab(explorer, settings.model, opened)
            with gr.Tab("Generate", id="generate"):
                GenerateTab(explorer, settings.model, opened, explore.choice, settings.output)
            with gr.Tab("Calibrate", id="calibrate"):
                calibrate = CalibrateTab(places, device, opened, explore.model, tabs, settings.model)
            with gr.Tab("Open", id="open"):
                OpenTab(places, opened, explore.model, tabs)
        add_api(explorer)
        explore.on_load(page)
        calibrate.on_load(page)
    page.queue(max_size=QUEUE_SIZE, default_concurrency_limit=8)
    return page


def launch_options(output: Path) -> dict[str, Any]:
    """What ``launch`` is given besides where to listen; of the disk only pictures that were made here are served."""
    fonts = ["system-ui", "sans-serif"]  # not a font from somebody's server
    theme = gr.themes.Default(primary_hue="orange", font=fonts, font_mono=["ui-monospace", "monospace"])
    return {
        "theme": theme,
        "css": CSS,
        "head": HEAD,
        "max_file_size": MAX_UPLOAD,
        "allowed_paths": [str(output / "app" / name) for name in ("generated", "grids")],
        "footer_links": [],
        "ssr_mode": False,
    }
