"""Representation warm-up against none, as Markdown."""

from collections.abc import Mapping
from typing import Any

from dit_accel.errors import ConfigError

NAMES = {"plain": "without", "erw": "with warm-up"}
SHOWN = 6


def erw_block(data: Mapping[str, Any]) -> str:
    """A report of ``benchmarks/erw.py``: the held-out loss of both at some steps, and what it took.

    Raises:
        ConfigError: It is no such report.
    """
    try:
        runs, environment = data["runs"], data["environment"]
        curves = {name: dict(map(tuple, run["curve"])) for name, run in runs.items()}
        shared = sorted(set.intersection(*(set(curve) for curve in curves.values())))
        shown = sorted({*shared[:: max(1, len(shared) // SHOWN)], shared[-1]})
        lines = [
            "| held-out loss at step | " + " | ".join(str(step) for step in shown) + " | warm-up steps | seconds |",
            "|---" + "|---:" * (len(shown) + 2) + "|",
        ]
        for name, run in runs.items():
            losses = " | ".join(f"{curves[name][step]:.4f}" for step in shown)
            spent = ", ".join(f"{what} {seconds:.0f}" for what, seconds in run["seconds"].items())
            lines.append(f"| {NAMES[name]} | {losses} | {run['warmup_steps']} | {spent} |")
        reached = data["erw_steps_to_it"]
        end = (
            f"The run without ends at {data['plain_last_loss']:.4f}; with the warm-up that "
            f"{'is not reached' if reached is None else f'takes {reached} steps after it'}."
        )
        how = (
            f"`{data['model']}`, the denoiser from nothing, {data['batch_size']} images a step, loss on "
            f"{data['held_out_images']} draws of concepts that neither has seen; {environment['cpu']}, "
            f"{environment['torch_threads']} thread, torch {environment['packages']['torch']}, "
            f"{data['created_utc'][:10]}."
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"not a report of benchmarks/erw.py: {error!r} is missing") from error
    return "\n".join([*lines, "", end, "", how])
