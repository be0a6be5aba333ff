"""``dit-accel env``: what to paste into a bug report."""

from dit_accel.cli import options
from dit_accel.cli.console import out, print_json


def env_command(as_json: options.Json = False) -> None:
    """Print versions, processor, GPU and threads: paste it into a bug report.

    Example: dit-accel env --json
    """
    from dit_accel.evaluation.reports.environment import collect_environment

    environment = collect_environment()
    if as_json:
        print_json(environment.model_dump_json(indent=1))
        return
    console = out()
    for name, value in environment.model_dump(exclude={"packages"}).items():
        console.print(f"{name:<16}{'none' if value is None else value}", markup=False)
    for name, version in environment.packages.items():
        console.print(f"{name:<16}{version}", markup=False)
