"""Starts the explorer: on this machine only unless told otherwise, and without a word to anybody."""

import os
from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError, MissingDependencyError

LOOPBACK = "127.0.0.1"


def launch(
    *,
    folder: Path = Path(),
    output: Path = Path("outputs"),
    model: str = "emoji-flux",
    device: str = "auto",
    threads: int = 1,
    reports: tuple[Path, ...] | None = None,
    host: str = LOOPBACK,
    port: int | None = None,
    share: bool = False,
    open_browser: bool = False,
    block: bool = True,
) -> Any:
    """Serve the explorer; returns gradio's page, which can be closed.

    Args:
        folder: Visitors may read reports, plans and models from it, and from nowhere else.
        output: For pictures and searches.
        model: Embedded pipeline that is looked at first.
        device: As for ``pick_device``.
        threads: Of torch.
        reports: Folders with reports of rivals; ``None``: those of a checkout.
        host: Address to listen on.
        port: ``None``: the first free one from 7860 on.
        share: Let gradio make a public link. Whoever has it can use this machine.
        open_browser: Open the page.
        block: Until it is interrupted.

    Raises:
        MissingDependencyError: gradio is not installed.
        ConfigError: There is no such folder or model, or it cannot listen there.
    """
    quiet_gradio()
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError.for_extra("gradio", "app", "the explorer") from error
    from dit_accel.app.page import AppSettings, build_page, launch_options
    from dit_accel.app.searches import searches_in
    from dit_accel.embedded import embedded_path

    embedded_path(model)
    if not folder.is_dir():
        raise ConfigError(f"there is no folder '{folder}' to open reports and plans from")
    page = build_page(
        AppSettings(root=folder, output=output, model=model, device=device, threads=threads, reports=reports)
    )
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            inbrowser=open_browser,
            prevent_thread_lock=not block,
            quiet=not block,
            **launch_options(output),
        )
    except (OSError, ValueError) as error:  # gradio's ValueError: its own server did not answer it in time
        raise ConfigError(f"cannot serve at {host}:{port or 7860}: {error}") from error
    if block:
        for search in searches_in(output / "calibrate"):
            search.stop()  # nobody is left to watch it; what it has judged is kept, and it can be gone on with
    return page


def quiet_gradio() -> None:
    """No analytics, no question for a newer version: set before gradio is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
