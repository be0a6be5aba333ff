"""``dit-accel presets``: what can be asked for by name, and what it means for a given model."""

from typing import Annotated

import typer

from dit_accel.cli import options
from dit_accel.cli.console import Commands, out, print_json

presets_app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Presets: named trades of speed against fidelity. See `presets list`."
)


@presets_app.command("list")
def list_command(as_json: options.Json = False) -> None:
    """List the presets, mildest first, and then published techniques with their authors' settings.

    Example: dit-accel presets list
    """
    import json

    from dit_accel.session.presets import PRESETS

    if as_json:
        print_json(json.dumps({name: PRESETS.get(name).summary for name in PRESETS}, indent=1))
        return
    console = out()
    presets = {name: PRESETS.get(name) for name in PRESETS}
    for name, preset in presets.items():
        if not preset.paper:
            console.print(f"[bold]{name:<10}[/]{preset.summary}")
    console.print("\nPublished techniques, to reproduce and to compare with:")
    for name, preset in presets.items():
        if preset.paper:
            console.print(f"[bold]{name:<18}[/]{preset.summary} ({preset.paper})", highlight=False)


@presets_app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="A preset of `dit-accel presets list`.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME|FOLDER|HUB-ID", help="Show the plan this preset is for a model."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="With --model: count reuse for this many steps.")] = 20,
    as_json: options.Json = False,
) -> None:
    """Show what a preset does: its rules, or with --model the plan it becomes and how much that reuses.

    The JSON of a plan can be saved, edited and given back: dit-accel generate --plan plan.json

    Example: dit-accel presets show fast --model emoji-pixart
    """
    import json

    from dit_accel.session.presets import PRESETS

    preset = PRESETS.get(name)
    if model is None:
        # Presets by rule take no notice of the model.
        passes = [config.to_dict() for config in preset.make(())]
        if as_json:
            print_json(json.dumps({"name": name, "summary": preset.summary, "passes": passes}, indent=1))
            return
        out().print(f"[bold]{name}[/]: {preset.summary}")
        for config in passes:
            settings = {key: value for key, value in config.items() if key not in ("type", "version")}
            out().print(f"  {config['type']}: {json.dumps(settings)}", markup=False)
        return
    _show_for_model(name, model, steps, as_json)


def _show_for_model(name: str, model: str, steps: int, as_json: bool) -> None:
    import json

    from dit_accel.cli.model import load_for_cli
    from dit_accel.families.targets import find_targets
    from dit_accel.passes.static_cache import StaticCacheConfig
    from dit_accel.session.presets import resolve_preset
    from dit_accel.session.session import check_plan

    targets = find_targets(load_for_cli(model, "cpu", "float32"))
    plan = resolve_preset(name, targets)
    if as_json:
        print_json(json.dumps(plan.to_dict(), indent=1))
        return
    console = out()
    doubts = check_plan(plan, targets)
    state = "certified" if plan.is_certified and not doubts else "not certified"
    console.print(
        f"[bold]{plan.name}[/] for {', '.join(type(target.denoiser).__name__ for target in targets)}: {state}"
    )
    for sentence in plan.certificate.words() if state == "certified" and plan.certificate else ():
        console.print(f"  {sentence}", markup=False)
    for doubt in doubts:
        console.print(f"  {doubt}", markup=False)
    for note in plan.notes:
        console.print(f"  note: {note}", markup=False)
    for config in plan.passes:
        if not isinstance(config, StaticCacheConfig):
            console.print(f"  {config.type_name}", markup=False)
            continue
        for target in targets:
            schedule = config.schedule_for(target.layout.graph, steps, with_invariants=False)
            reused = schedule.reuse_fraction(target.layout.graph)
            console.print(
                f"  {config.type_name} of {target.name}: reuses {reused:.0%} of module outputs in a run of {steps} "
                f"evaluations, at {len(schedule.recompute)} of {len(target.layout.graph)} sites",
                markup=False,
            )
