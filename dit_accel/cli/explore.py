"""``dit-accel app``: open the explorer in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from dit_accel.cli import options
from dit_accel.cli.console import tell


def app_command(
    model: Annotated[str, typer.Option("--model", "-m", help="Embedded pipeline to look at first.")] = "emoji-flux",
    folder: Annotated[
        Path, typer.Option("--folder", help="Reports, plans and models in it can be opened; nothing outside of it.")
    ] = Path(),
    output: Annotated[Path, typer.Option("--output", "-o", help="For pictures and searches.")] = Path("outputs"),
    host: Annotated[str, typer.Option(help="Address to listen on. Default: this machine only.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Make a public link through gradio's servers; who has it can draw here.")
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    device: options.Device = "auto",
) -> None:
    """Look at speed against quality, choose a point, draw with it, and take the code home.

    Example: dit-accel app
    """
    from dit_accel.app.run import launch, quiet_gradio

    tell("starting the explorer; Ctrl-C ends it, and stops a search in a way that it can be gone on with")
    quiet_gradio()
    launch(
        folder=folder,
        output=output,
        model=model,
        device=device,
        threads=threads,
        host=host,
        port=port,
        share=share,
        open_browser=browser,
    )
