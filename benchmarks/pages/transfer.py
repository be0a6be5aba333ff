"""What calibrated plans are worth away from where they were calibrated, as Markdown."""

from typing import Any

from dit_accel.errors import ConfigError


def transfer_block(data: Any) -> str:
    """A report of ``benchmarks/transfer.py``: a table, and how it was measured.

    Raises:
        ConfigError: It is no such report.
    """
    try:
        rows = [_row(name, case) for name, case in data["cases"].items()]
        environment = data["environment"]
        how = (
            f"`{data['model']}`, preset `{data['preset']}`, n = {data['num']} held-out prompts; "
            f"{environment['cpu']}, torch {environment['packages']['torch']}, diffusers "
            f"{environment['packages']['diffusers']}, {data['created_utc'][:10]}."
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"not a report of benchmarks/transfer.py: {error!r} is missing") from error
    lines = [
        "| | computed | PSNR | worst 5 % | ST-LPIPS | plain, as many steps |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *rows, "", how])


def _row(name: str, case: dict[str, Any]) -> str:
    plan, fewer = case["plan"], case["fewer_steps"]
    distance = f"{plan['st_lpips']:.4f}" if "st_lpips" in plan else ""
    cells = [name, f"{case['computed']} of {case['steps']}", f"{plan['psnr_db']:.1f} dB", f"{plan['worst_db']:.1f} dB"]
    cells += [distance, f"{fewer['psnr_db']:.1f} dB"]
    return f"| {' | '.join(cells)} |"
