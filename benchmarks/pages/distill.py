"""What students are worth beside their teacher and its fitted trajectories, as Markdown."""

from typing import Any

from dit_accel.errors import ConfigError

TEACHER = "teacher, "


def distill_block(data: Any) -> str:
    """A report of ``benchmarks/distill.py``: a table, and how it was measured.

    Raises:
        ConfigError: It is no such report.
    """
    try:
        systems = data["systems"]
        plain = next(iter(systems.values())).get("seconds")
        rows = [_row(name, each, plain) for name, each in systems.items()]
        environment = data["environment"]
        how = (
            f"`{data['model']}`, n = {data['num']} prompts of `{data['prompts']}`, {data['real_pictures']:,} real "
            f"pictures; {environment['cpu']}, torch {environment['packages']['torch']}, diffusers "
            f"{environment['packages']['diffusers']}, {data['created_utc'][:10]}."
        )
        if plain is not None:
            how += " Times of the whole pipeline, one picture, one thread, in turns: medians."
        else:
            how += f" Times: not measured yet (`python benchmarks/distill.py {data['model']} --time 5 ...`)."
    except (KeyError, TypeError) as error:
        raise ConfigError(f"not a report of benchmarks/distill.py: {error!r} is missing") from error
    lines = [
        "| | evaluations | FD-EffNetLite0 | coverage | alignment | PSNR to the teacher | times faster |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *rows, "", how])


def _row(name: str, each: dict[str, Any], plain: float | None) -> str:
    shown = name if name.startswith(TEACHER) else f"**{name}**"
    psnr = "" if each["psnr_db"] >= 100 else f"{each['psnr_db']:.1f} dB"
    cells = [shown, str(each["evaluations"]), f"{each['FD-EffNetLite0']:.1f}", f"{each['coverage']:.3f}"]
    faster = f"{plain / each['seconds']:.1f}x" if plain and "seconds" in each else "not timed"
    cells += [f"{each['alignment']:.3f}", psnr, faster]
    return f"| {' | '.join(cells)} |"
