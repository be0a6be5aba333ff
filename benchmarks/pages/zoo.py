"""The embedded pipelines as a Markdown table; every number is read from a report or is a file's size."""

import json

from dit_accel.embedded import embedded_path, list_embedded

HEADER = (
    "| name | pipeline | size | steps | FD-EffNetLite0 (VAE, untrained) | concept top-1 / top-5 | motion right |",
    "|---|---|---:|---:|---:|---:|---:|",
)


def zoo_block() -> str:
    """One row a pipeline, with a link to its card as seen from docs/."""
    return "\n".join([*HEADER, *(_row(name) for name in list_embedded())])


def _row(name: str) -> str:
    path = embedded_path(name)
    report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    pipeline = json.loads((path / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    size_mb = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
    frechet, concepts, protocol = report["frechet"], report["concepts"]["generated"], report["protocol"]
    motion = report.get("motion")
    cells = [
        f"[`{name}`](../dit_accel/embedded/{name}/README.md)",
        f"`{pipeline}`",
        f"{size_mb:.0f} MB",
        str(protocol["num_inference_steps"]),
        f"{frechet['generated']:.0f} ({frechet['reconstructed']:.0f}, {frechet['untrained']:.0f}), n = "
        f"{protocol['images']}",
        f"{concepts['top1_frac']:.1%} / {concepts['top5_frac']:.1%}, n = {concepts['n']}",
        "" if motion is None else f"{motion['generated']['direction_frac']:.0%}, n = {motion['generated']['n']}",
    ]
    return f"| {' | '.join(cells)} |"
