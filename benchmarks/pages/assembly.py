"""A smaller UNet that takes turns with the whole one, as Markdown."""

from collections.abc import Mapping
from typing import Any

from dit_accel.errors import ConfigError


def assembly_block(data: Mapping[str, Any]) -> str:
    """A report of ``benchmarks/assembly.py``: what was drawn by whom, and how close it is.

    Raises:
        ConfigError: It is no such report.
    """
    try:
        environment, packages = data["environment"], data["environment"]["packages"]
        lines = [
            "| | FD-EffNetLite0 | coverage | alignment | PSNR to the plain pictures |",
            "|---|---:|---:|---:|---:|",
        ]
        for place, (name, found) in enumerate(data["systems"].items()):
            close = f"{found['psnr_db']:.1f} dB" if place else ""  # the first is the plain run
            cells = [name, f"{found['FD-EffNetLite0']:.1f}", f"{found['coverage']:.3f}", f"{found['alignment']:.3f}"]
            lines.append(f"| {' | '.join([*cells, close])} |")
        how = (
            f"`{data['model']}`, n = {data['num']} prompts of `certify`, {data['real_pictures']} real pictures; "
            f"{data['iterations']} training steps of {data['batch_size']} samples, {data['train_seconds']:.0f} s; "
            f"{data['macs_saved_in_its_calls_frac']:.0%} of the arithmetic is saved in the calls that the small one "
            f"makes; {environment['cpu']}, torch {packages['torch']}, {data['created_utc'][:10]}."
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"not a report of benchmarks/assembly.py: {error!r} is missing") from error
    return "\n".join([*lines, "", how])
