"""What ERW's warm-up is worth: the denoiser of emoji-pixart from nothing, with it and without, on one budget.

    python benchmarks/erw.py --steps 300 --warmup 100 --batch-size 16

Both runs have the same data, autoencoder (the one that ships), seed, batches and learning rates. The loss that
compares them is the denoiser's own, without the agreement, on images of concepts that neither has seen, at times and
noise that never change, with the averaged weights. Steps of the warm-up are counted apart, and its seconds and
those of the frozen network's features are charged to it. Stopped, the same command goes on.
"""

import json
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer

from dit_accel.embedded import embedded_path
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.training.denoiser import LatentData, denoiser_loop, stratified
from dit_accel.training.erw import ERWConfig, save_warmed, warmup_loop
from dit_accel.training.kinds import KINDS
from dit_accel.training.loop import LoopConfig
from dit_accel.training.precision import training_dtype
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.recipes import get_recipe
from dit_accel.training.stage import RunOptions, encode_training_set, load_vae, untrained
from dit_accel.training.training_set import load_training_set
from dit_accel.training.warmup import alignment_of, features_of

RESULTS = Path(__file__).parent / "results"
MODEL = "emoji-pixart"
HELD_OUT = 64
PLAIN, WARMED = "plain", "erw"


def held_out_loss(kind: Any, modules: Any, data: LatentData, images: int = HELD_OUT) -> float:
    """The denoiser's loss on images it has never seen, always at the same times and noise."""
    generator = torch.Generator().manual_seed(0)
    objective, total = kind.objective(data.shape), 0.0
    for number in range(images // 16):
        batch = data.draw(16, 0.0, 0.0, generator)
        noise = torch.randn(batch.clean.shape, generator=generator)
        t = objective.times(stratified(16, generator))
        noisy, target = objective.example(batch.clean, noise, t)
        with torch.no_grad():
            predicted = kind.predict(modules[kind.denoiser_name], noisy, t, kind.encode(modules, batch.text))
        total += (F.mse_loss(predicted.float(), target).item() - total) / (number + 1)
    return total


def one_run(recipe: EmbeddedRecipe, work: Path, every: int) -> dict[str, Any]:
    """Train a denoiser, and read the held-out loss every so many steps."""
    kind = KINDS[recipe.kind]
    name = PLAIN if recipe.erw is None else WARMED
    if (done := read_json(work / f"{name}.json")) is not None:
        return dict(done)
    cpu = torch.device("cpu")
    options = RunOptions(run_dir=work / name, device=cpu, dtype=training_dtype("auto", cpu), compile_modules=False)
    options.run_dir.mkdir(parents=True, exist_ok=True)
    data, unseen = load_training_set(recipe), load_training_set(recipe, held_out=True)
    vae = load_vae(recipe, embedded_path(MODEL) / "vae", options.device)
    tokenizers, modules = untrained(recipe, data, options)
    with torch.no_grad():
        latents = encode_training_set(recipe, vae, data, tokenizers, options)
        judged = encode_training_set(recipe, vae, unseen, tokenizers, options)
    spent: dict[str, float] = {}
    alignment = None
    if recipe.erw is not None and recipe.warmup_loop is not None:
        begun = time.perf_counter()
        denoiser = modules[kind.denoiser_name]
        features = features_of(recipe, denoiser, data, latents)
        spent["features"] = time.perf_counter() - begun
        warmup = warmup_loop(
            kind, modules, latents, features, recipe.erw, recipe.warmup_loop, run_dir=options.run_dir,
            seed=recipe.seed, dtype=options.dtype,
        )  # fmt: skip
        warmup.load()
        warmup.run()
        spent["warmup"] = warmup.train_seconds
        with warmup.averaged():
            save_warmed(denoiser, recipe.erw, options.run_dir)
        tokenizers, modules = untrained(recipe, data, options)
        alignment = alignment_of(recipe, modules, features, options)
    curve_file = options.run_dir / "curve.json"
    curve: list[list[float]] = read_json(curve_file) or []

    def look(step: int) -> None:
        if step % every == 0 and not any(at == step for at, _ in curve):
            curve.append([step, round(held_out_loss(kind, modules, judged), 5)])
            curve_file.write_text(json.dumps(curve))
            print(f"{name}: step {step}, held-out loss {curve[-1][1]}", flush=True)

    loop = denoiser_loop(
        kind, modules, latents, replace(recipe.denoiser_loop, sample_minutes=1e-9), caption_drop=recipe.caption_drop,
        run_dir=options.run_dir, seed=recipe.seed, dtype=options.dtype, compile_modules=False, alignment=alignment,
        sample_fn=look,
    )  # fmt: skip
    loop.load()
    loop.run()
    spent["denoiser"] = loop.train_seconds
    found = {
        "steps": loop.step,
        "warmup_steps": 0 if recipe.warmup_loop is None else recipe.warmup_loop.steps,
        "seconds": {key: round(value, 1) for key, value in spent.items()},
        "curve": sorted(curve),
    }
    write_json(work / f"{name}.json", found)
    return found


def steps_to(curve: list[list[float]], loss: float) -> int | None:
    """The first step whose held-out loss is as low."""
    return next((int(step) for step, found in curve if found <= loss), None)


def main(
    steps: Annotated[int, typer.Option(min=1, help="Of the denoiser.")] = 300,
    warmup: Annotated[int, typer.Option(min=1, help="Steps of the warm-up, each at a fraction of the cost.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 16,
    every: Annotated[int, typer.Option(min=1, help="Steps between looks at the held-out loss.")] = 25,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = RESULTS,
    work: Annotated[Path, typer.Option(help="Keeps checkpoints and curves.")] = Path("outputs/erw"),
) -> None:
    """Train both, and write at which step each reaches the other's last loss."""
    torch.set_num_threads(threads)
    recipe = get_recipe(MODEL, "cpu")
    loop = LoopConfig(
        steps=steps, batch_size=batch_size, lr=recipe.denoiser_loop.lr, warmup_steps=min(20, steps), ema_decay=0.98,
        log_steps=every,
    )  # fmt: skip
    recipe = replace(recipe, denoiser_loop=loop)
    warmed = replace(recipe, erw=ERWConfig(), warmup_loop=replace(loop, steps=warmup, sample_minutes=0))
    identity = {"steps": steps, "warmup": warmup, "batch_size": batch_size, "every": every}
    claim(work / "job.json", identity, "a measurement")
    runs = {PLAIN: one_run(recipe, work, every), WARMED: one_run(warmed, work, every)}
    last = runs[PLAIN]["curve"][-1][1]
    report = {
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "environment": collect_environment().model_dump(),
        "model": MODEL,
        "batch_size": batch_size,
        "held_out_images": HELD_OUT,
        "runs": runs,
        "plain_last_loss": last,
        "erw_steps_to_it": steps_to(runs[WARMED]["curve"], last),
    }
    write_json(output / f"erw-{MODEL}.json", report)
    print(f"the plain run ends at {last}; with the warm-up it is reached at step {report['erw_steps_to_it']}")


if __name__ == "__main__":
    typer.run(main)
