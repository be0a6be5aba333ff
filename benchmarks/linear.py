"""What linear and sparse attention cost a video before and after their training, and what they save as it grows.

    python benchmarks/linear.py emoji-wan --plan outputs/linearize/emoji-wan/linvideo-0.5/plan --plan ...

"After" is the plan that ``dit-accel linearize`` wrote. "Before" is the same attention in the same layers with nothing
trained: linear attention with feature maps that are the identity, or sparse attention without its linear branch. Both
are compared with the pipeline's own videos of held-out prompts, from the same noise. A finished plan is kept.

The cost of attention alone, one layer of this model's heads, is timed for growing numbers of tokens, softmax and
linear in turns: seconds of one thread, the median of some rounds.
"""

import statistics
import time
import warnings
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dit_accel import AccelerationPlan, LinearAttentionConfig, SLAConfig, accelerated, load_embedded
from dit_accel.errors import AccelerationWarning, ConfigError
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.families.targets import find_targets
from dit_accel.kernels.attention import dense
from dit_accel.passes.attention.routing import routable
from dit_accel.passes.linear_attention_module import LinearAttention, head_dim_of
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.plan.config import PassConfig
from dit_accel.prompts import load_prompts

RESULTS = Path(__file__).parent / "results"
PERCEPTUAL = tuple(name for name in available_perceptual() if name == "st_lpips")


def untrained(plan: AccelerationPlan) -> PassConfig:
    """The attention of a plan as it was before its training, without the adapter.

    Raises:
        ConfigError: It is no plan of ``dit-accel linearize``.
    """
    for config in plan.passes:
        if isinstance(config, LinearAttentionConfig):
            return LinearAttentionConfig(weights={name: torch.eye(len(w)) for name, w in config.weights.items()})
        if isinstance(config, SLAConfig):
            fields = {k: v for k, v in config.to_dict().items() if k not in ("type", "version")}
            return SLAConfig(**fields)
    raise ConfigError(f"the plan '{plan.name}' has neither linear attention nor sla: give one of dit-accel linearize")


def what(plan: AccelerationPlan, layers: int) -> dict[str, Any]:
    """What a plan does to the attention: which of so many layers are linear, or how sparse all are."""
    config = untrained(plan)
    if isinstance(config, LinearAttentionConfig):
        return {"method": "linvideo", "layers": list(config.layers), "of": layers}
    assert isinstance(config, SLAConfig)
    return {"method": "sla", "sparsity": round(1 - config.density, 4), "layers": [], "of": layers}


def draw(
    pipe: Any, prompts: Sequence[str], settings: GenerationSettings, passes: Sequence[PassConfig]
) -> torch.Tensor:
    """Videos of all prompts, video k from seed k, [B, F, 3, H, W]."""
    seeds = range(len(prompts))
    if not passes:
        return generate(pipe, prompts, seeds, settings, batch_size=1)
    with warnings.catch_warnings(), accelerated(pipe, list(passes)):
        warnings.simplefilter("ignore", AccelerationWarning)
        return generate(pipe, prompts, seeds, settings, batch_size=1)


def worth(videos: torch.Tensor, plain: torch.Tensor) -> dict[str, float]:
    """Mean distances to the pipeline's own videos."""
    found = fidelity(videos, plain, perceptual=PERCEPTUAL)
    scores = {"psnr_db": round(statistics.fmean(found.psnr_db), 2), "ssim": round(statistics.fmean(found.ssim), 4)}
    if found.st_lpips:
        scores["st_lpips"] = round(statistics.fmean(found.st_lpips), 4)
    return scores


@torch.no_grad()
def growth(heads: int, head_dim: int, lengths: Sequence[int], rounds: int) -> list[dict[str, float]]:
    """Seconds of softmax and of linear attention for each number of tokens."""
    layer, rows = LinearAttention(head_dim).eval(), []
    for length in lengths:
        generator = torch.Generator().manual_seed(length)
        q, k, v = (torch.randn(1, length, heads, head_dim, generator=generator) for _ in range(3))
        times: dict[str, list[float]] = {"softmax": [], "linear": []}
        for turn in range(rounds + 1):
            for name, attend in (("softmax", dense), ("linear", layer)):
                begun = time.perf_counter()
                attend(q, k, v)
                times[name] += [time.perf_counter() - begun] if turn else []  # the first round warms up
        rows.append({"tokens": length, **{name: round(statistics.median(each), 6) for name, each in times.items()}})
    return rows


def main(
    model: Annotated[str, typer.Argument(help="An embedded Wan pipeline.")] = "emoji-wan",
    plan: Annotated[list[Path] | None, typer.Option(help="Folder of a plan; several times for several.")] = None,
    num: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 16,
    steps: Annotated[int | None, typer.Option(min=1, help="Of a run. Default: the pipeline's own.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of a video. Default: the pipeline's own.")] = None,
    lengths: Annotated[str, typer.Option(help="Numbers of tokens of the cost, by comma.")] = "256,1024,2048,4096,8192",
    rounds: Annotated[int, typer.Option(min=1, help="Of the cost.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = RESULTS,
    work: Annotated[Path, typer.Option(help="Keeps what is measured until the report.")] = Path("outputs/linear"),
) -> None:
    """Measure every plan before and after, then the cost."""
    torch.set_num_threads(threads)
    pipe = load_embedded(model)
    pipe.set_progress_bar_config(disable=True)
    prompts = load_prompts("certify", "video").prompts[:num]
    settings = GenerationSettings(num_inference_steps=steps, num_frames=frames)
    identity = {"model": model, "num": num, "steps": steps, "frames": frames}
    claim(work / model / "job.json", identity, "a measurement")
    measured = read_json(work / model / "plans.json") or {}
    modules = [module for target in find_targets(pipe) for _, module in routable(target)]
    plain: torch.Tensor | None = None
    for folder in plan or []:
        found = AccelerationPlan.from_pretrained(folder)
        name = found.name or folder.name
        if name not in measured:
            plain = draw(pipe, prompts, settings, ()) if plain is None else plain
            measured[name] = {
                **what(found, len(modules)),
                "before": worth(draw(pipe, prompts, settings, (untrained(found),)), plain),
                "after": worth(draw(pipe, prompts, settings, found.passes), plain),
            }
            write_json(work / model / "plans.json", measured)
        print(f"{name}: {measured[name]}", flush=True)
    heads, head_dim = int(modules[0].heads), head_dim_of(modules[0])
    report = {
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "environment": collect_environment().model_dump(),
        "model": model,
        "prompts": "certify",
        "num": len(prompts),
        "steps": steps,
        "frames": frames,
        "plans": measured,
        "heads": heads,
        "head_dim": head_dim,
        "growth": growth(heads, head_dim, [int(length) for length in lengths.split(",")], rounds),
    }
    write_json(output / f"linear-{model}.json", report)


if __name__ == "__main__":
    typer.run(main)
