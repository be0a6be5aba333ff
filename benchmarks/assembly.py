"""A-SDM's assembled UNet on emoji-sd: pruned, given experts, distilled, and then taking turns with the whole one.

    python benchmarks/assembly.py --iterations 300 --num 100

Layers go as ``redundant_layers`` says, first convolutions of the pruned levels get experts, and the whole UNet is
distilled into what is left at the times of the noisy steps it will draw. Then pictures of held-out prompts: the plain
pipeline, the assembled UNet in the first half of the steps and in all of them, and, as the honest rival, the plain
pipeline in as many fewer steps as the switch saves arithmetic. Training is checkpointed; the same command goes on.
"""

import copy
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from distill import Comparison, real_features

from dit_accel import AccelerationPlan, UNetSwitchingConfig, load_embedded
from dit_accel.evaluation.progress_files import claim, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.passes.assembly_module import add_experts, prune, redundant_layers
from dit_accel.training.distill.assembly_loop import assembly_loop
from dit_accel.training.kinds import KINDS
from dit_accel.training.loop import LoopConfig
from dit_accel.training.recipes import get_recipe
from dit_accel.training.stage import RunOptions, encode_training_set
from dit_accel.training.training_set import load_training_set

RESULTS = Path(__file__).parent / "results"
MODEL = "emoji-sd"


def assembled(unet: Any, levels: int, experts: int) -> Any:
    """A smaller copy of a UNet, with experts in the first convolution of each level that lost layers."""
    small = copy.deepcopy(unet).requires_grad_(True)
    prune(small, redundant_layers(small, levels))
    add_experts(small, [f"down_blocks.{level}.resnets.0.conv1" for level in range(levels)], experts)
    return small


def macs(unet: Any, pipe: Any) -> int:
    """Multiply-accumulates of convolutions and linear layers of one call for one picture."""
    total = 0

    def count(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    plain = [m for m in unet.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    handles = [module.register_forward_hook(count) for module in plain]
    size = unet.config.sample_size
    text = torch.zeros(1, pipe.tokenizer.model_max_length, unet.config.cross_attention_dim)
    with torch.no_grad():
        unet(torch.zeros(1, 4, size, size), 500, encoder_hidden_states=text, return_dict=False)
    for handle in handles:
        handle.remove()
    return total


def main(
    iterations: Annotated[int, typer.Option(min=1, help="Training steps.")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a training step.")] = 16,
    levels: Annotated[int, typer.Option(min=1, help="Levels that lose layers, shallow ones first.")] = 2,
    experts: Annotated[int, typer.Option(min=1, help="Of each convolution that gets some.")] = 2,
    end_frac: Annotated[float, typer.Option(min=0, max=1, help="Share of the steps that the small UNet draws.")] = 0.5,
    num: Annotated[int, typer.Option(min=2, help="Held-out prompts.")] = 100,
    steps: Annotated[int, typer.Option(min=2, help="Of a run.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = RESULTS,
    work: Annotated[Path, typer.Option(help="Keeps checkpoint and plan.")] = Path("outputs/assembly"),
) -> None:
    """Train, then measure."""
    torch.set_num_threads(threads)
    pipe = load_embedded(MODEL)
    pipe.set_progress_bar_config(disable=True)
    identity = {"iterations": iterations, "batch_size": batch_size, "levels": levels, "experts": experts}
    claim(work / "job.json", {**identity, "end_frac": end_frac, "num": num, "steps": steps}, "a measurement")
    kind, recipe = KINDS["sd"], get_recipe(MODEL, "cpu")
    options = RunOptions(run_dir=work, device=torch.device("cpu"), compile_modules=False)
    with torch.no_grad():
        data = encode_training_set(recipe, pipe.vae, load_training_set(recipe), {"tokenizer": pipe.tokenizer}, options)
    modules = {"text_encoder": pipe.text_encoder, "unet": pipe.unet}
    small = assembled(pipe.unet, levels, experts)
    saved = 1 - macs(small, pipe) / macs(pipe.unet, pipe)
    config = LoopConfig(steps=iterations, batch_size=batch_size, lr=2e-4, warmup_steps=10, ema_decay=0.98,
                        sample_minutes=0, log_steps=25)  # fmt: skip
    loop = assembly_loop(kind, modules, small, data, config, run_dir=work, dtype=options.dtype, end_frac=end_frac)
    loop.load()
    loop.run()
    with loop.averaged():
        switch = UNetSwitchingConfig.of(small, end_frac=end_frac)
    AccelerationPlan(name="emoji-sd-switching", passes=(switch,)).save_pretrained(work / "plan")
    fields = {"pruned": switch.pruned, "experts": switch.experts, "weights": switch.weights}
    untrained = {"pruned": switch.pruned, "experts": switch.experts, "end_frac": end_frac}
    fewer = round(steps * (1 - saved * end_frac))
    comparison = Comparison(pipe, num, real_features(MODEL), work)
    comparison.teacher_steps = steps
    measured: dict[str, Any] = {}
    for name, count, passes in (
        (f"plain, {steps} steps", steps, ()),
        (f"assembled in the first {end_frac:.0%} of the steps", steps, (switch,)),
        ("the same before its training", steps, (UNetSwitchingConfig(**untrained),)),
        ("assembled in all steps", steps, (UNetSwitchingConfig(end_frac=1.0, **fields),)),
        (f"plain, {fewer} steps", fewer, ()),
    ):
        measured[name] = comparison.worth(comparison.draw(count, passes))
        print(f"{name}: {measured[name]}", flush=True)
    report = {
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "environment": collect_environment().model_dump(),
        "model": MODEL,
        "num": num,
        "real_pictures": None if comparison.real is None else len(comparison.real),
        **identity,
        "macs_saved_in_its_calls_frac": round(saved, 4),
        "train_seconds": round(loop.train_seconds, 1),
        "systems": measured,
    }
    write_json(output / f"assembly-{MODEL}.json", report)


if __name__ == "__main__":
    typer.run(main)
