"""The commands, put together. Importing this loads typer and rich, but no torch: ``--help`` must be quick."""

from typing import Annotated

import typer

from dit_accel.cli.calibrate import calibrate_command
from dit_accel.cli.certify import certify_command
from dit_accel.cli.console import Commands
from dit_accel.cli.demo import demo_command
from dit_accel.cli.distill import distill_command
from dit_accel.cli.doctor import doctor_command
from dit_accel.cli.env import env_command
from dit_accel.cli.evaluate import evaluate_command
from dit_accel.cli.explore import app_command
from dit_accel.cli.generate import generate_command
from dit_accel.cli.linearize import linearize_command
from dit_accel.cli.parallel_plan import parallel_plan_command
from dit_accel.cli.presets import presets_app
from dit_accel.cli.quantize import quantize_command
from dit_accel.cli.report import report_command
from dit_accel.cli.train import train_embedded_command
from dit_accel.version import __version__

HELP = """Make diffusers pipelines faster, and see what it costs.

A first look: dit-accel demo

See the trade-off, pick a point: dit-accel app

Your own prompt: dit-accel generate "a red apple" --preset fast --compare

In Python: pipe = dit_accel.accelerate_pipeline(pipe, "fast")
"""

app = typer.Typer(
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate_command)
app.command("demo")(demo_command)
app.command("app")(app_command)
app.command("calibrate")(calibrate_command)
app.command("quantize")(quantize_command)
app.command("certify")(certify_command)
app.command("evaluate")(evaluate_command)
app.command("report")(report_command)
app.add_typer(presets_app, name="presets")
app.command("env")(env_command)
app.command("doctor")(doctor_command)
app.command("parallel-plan")(parallel_plan_command)
app.command("train-embedded")(train_embedded_command)
app.command("distill")(distill_command)
app.command("linearize")(linearize_command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
