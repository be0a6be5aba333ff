"""What ``dit-accel parallel-plan`` has foretold of one pipeline, as Markdown."""

from collections.abc import Mapping
from typing import Any

from dit_accel.errors import ConfigError

FILE = "parallel-plan-emoji-pixart.json"
COMMAND = f"dit-accel parallel-plan emoji-pixart --ranks 4 --bandwidth 100gbe --json > benchmarks/results/{FILE}"


def parallel_plan_block(data: Mapping[str, Any]) -> str:
    """Every way, the quickest first, why others cannot be used, and what is best.

    Raises:
        ConfigError: It is no output of the command.
    """
    try:
        link, environment = data["link"], data["environment"]
        lines = [
            "| way | a picture | speed-up | exact | computed | sent | waiting | hidden |",
            "|---|---:|---:|---|---:|---:|---:|---:|",
            *(_row(each) for each in data["ways"]),
        ]
        refused = [f"- {name}: no, {reason}" for name, reason in data["refused"].items()]
        how = (
            f"`{data['model']}`, {data['ranks']} ranks, {data['steps']} steps, {link['gb_per_s']:g} GB/s and "
            f"{link['latency_us']:g} us; {1000 * data['evaluation_s']:.1f} ms for an evaluation in one process, "
            f"{environment['torch_threads']} thread of {environment['cpu']}, torch "
            f"{environment['packages']['torch']}, {data['created_utc'][:10]}. Foretold."
        )
        said = " ".join(data["verdict"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"not the JSON of dit-accel parallel-plan: {error!r} is missing") from error
    return "\n".join([*lines, "", *([*refused, ""] if refused else []), f"> {said}", "", how])


def _row(each: Mapping[str, Any]) -> str:
    cells = [each["name"], f"{each['picture_s']:.3g} s", f"{each['speedup']:.2f}x", "yes" if each["exact"] else "no"]
    cells += [f"{each['computed_frac']:.0%}", f"{each['sent_mib']:.2f} MiB", f"{each['waited_frac']:.0%}"]
    cells.append(f"{each['hidden_frac']:.0%}" if each["sent_mib"] else "")
    return f"| {' | '.join(cells)} |"
