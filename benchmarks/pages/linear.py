"""Linear and sparse attention before and after training, and its cost by length, as Markdown."""

from collections.abc import Mapping
from typing import Any

from dit_accel.errors import ConfigError


def linear_block(data: Mapping[str, Any]) -> str:
    """A report of ``benchmarks/linear.py``: quality, then cost.

    Raises:
        ConfigError: It is no such report.
    """
    try:
        rows = [_row(each) for each in data["plans"].values()]
        environment = data["environment"]
        packages = environment["packages"]
        frames = "" if data["frames"] is None else f", {data['frames']} frames"
        steps = "" if data["steps"] is None else f", {data['steps']} steps"
        how = (
            f"`{data['model']}`, n = {data['num']} prompts of `{data['prompts']}`{frames}{steps}; to its own videos "
            f"from the same noise; {environment['cpu']}, torch {packages['torch']}, diffusers "
            f"{packages['diffusers']}, {data['created_utc'][:10]}."
        )
        cost = [
            f"| {row['tokens']:,} | {1000 * row['softmax']:.1f} ms | {1000 * row['linear']:.1f} ms "
            f"| {row['softmax'] / row['linear']:.2f}x |"
            for row in data["growth"]
        ]
        heads = (
            f"One layer's attention alone, {data['heads']} heads of {data['head_dim']}, float32, "
            f"{environment['torch_threads']} thread; median of some rounds, in turns."
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"not a report of benchmarks/linear.py: {error!r} is missing") from error
    quality = [
        "| | linear layers | PSNR before | after | SSIM before | after | ST-LPIPS before | after |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *rows, "", how,
    ]  # fmt: skip
    growth = ["| tokens | softmax | linear | softmax / linear |", "|---:|---:|---:|---:|", *cost, "", heads]
    return "\n".join([*quality, "", *growth])


def _row(each: Mapping[str, Any]) -> str:
    linear, of = each["layers"], each["of"]
    if each["method"] == "sla":
        shown, name = "all sparse", f"SLA, {each['sparsity']:.0%} left out"
    else:
        shown = ", ".join(layer.split(".")[1] for layer in linear) or "none"
        name = f"LinVideo, {len(linear)} of {of}"
    before, after = each["before"], each["after"]
    cells = [name, shown, f"{before['psnr_db']:.1f} dB", f"{after['psnr_db']:.1f} dB"]
    cells += [f"{before['ssim']:.3f}", f"{after['ssim']:.3f}"]
    cells += [f"{found['st_lpips']:.3f}" if "st_lpips" in found else "" for found in (before, after)]
    return f"| {' | '.join(cells)} |"
