"""How much of rounding noise a forecast from earlier outputs multiplies, and what a fit on the noisy model leaves.

    python benchmarks/quant_noise.py emoji-pixart --bits w4a8 --speedup 2.5

Teacher-forced: the quantised denoiser is given the latents of the plain run, so that its error at every step is known
by itself. A forecast is linear in the outputs it is made from, so its error from their noise is the same sum of their
errors; the ratio to the error of a computed output is the amplification. NVIDIA's cosmos-framework (pull request 247)
turns caching off for quantised models because Taylor forecasts multiply it.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from dit_accel import AccelerationPlan, QuantizeConfig, TrajectoryConfig, accelerated, load_embedded
from dit_accel.calibration.fit import fit
from dit_accel.calibration.quant_beneath import quantised_beneath
from dit_accel.calibration.recording import Recording, record
from dit_accel.evaluation.metrics.fidelity import differences
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.passes.trajectory.config import rows_of
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.prompts import load_prompts


def taylor(steps: int, every: int, order: int) -> dict[int, dict[int, float]]:
    """Weights of TaylorSeer's forecast (arXiv 2503.06923): finite differences of the last computed outputs."""
    found: dict[int, dict[int, float]] = {}
    for step in range(steps):
        last = step // every * every
        known = [last - k * every for k in range(order + 1) if last - k * every >= 0]
        if step == last or len(known) < order + 1:
            continue
        ahead = (step - last) / every
        weights = [0.0] * len(known)
        for k in range(order + 1):  # the k-th backward difference, times ahead^k / k!
            for m in range(k + 1):
                weights[m] += ahead**k / math.factorial(k) * (-1) ** m * math.comb(k, m)
        found[step] = dict(zip(known, weights, strict=True))
    return found


def neighbours(steps: int, ahead: int, order: int) -> dict[int, dict[int, float]]:
    """The same from neighbouring steps: order + 1 in a row are computed, the next ``ahead`` are answered."""
    found: dict[int, dict[int, float]] = {}
    for start in range(0, steps, order + 1 + ahead):
        last = start + order
        for step in range(last + 1, min(steps, last + 1 + ahead)):
            weights = [0.0] * (order + 1)
            for k in range(order + 1):
                for m in range(k + 1):
                    weights[m] += (step - last) ** k / math.factorial(k) * (-1) ** m * math.comb(k, m)
            found[step] = {last - m: weight for m, weight in enumerate(weights)}
    return found


def amplification(rows: dict[int, dict[int, float]], noise: torch.Tensor) -> list[float]:
    """Of each forecast: the norm of what it makes of the outputs' noise [T, ...], by that of its own step."""
    each = noise.flatten(1).norm(dim=1)
    return [
        float(sum(weight * noise[step] for step, weight in weights.items() if step >= 0).norm() / each[answered])
        for answered, weights in rows.items()
        if any(step >= 0 for step in weights)
    ]


def noise_of(pipe: Any, draw: Any, reference: Recording, config: QuantizeConfig) -> torch.Tensor:
    """[T, B, ...]: the error of the quantised denoiser at every step of the plain run."""
    from dit_accel.calibration.recording import listening

    class Follow:
        """Takes the quantised output down, and goes on with the plain one."""

        def __init__(self) -> None:
            self.outputs: list[torch.Tensor] = []

        def wants(self, step: int) -> bool:
            return True

        def output(self, evaluation: Any) -> torch.Tensor:
            self.outputs.append(evaluation.output.detach().clone())
            plain: torch.Tensor = reference.outputs[evaluation.step].to(evaluation.output)
            return plain

        def end(self, latents: torch.Tensor) -> None:
            pass

    follow = Follow()
    with quantised_beneath(pipe, config), listening(pipe, follow):
        draw(0, reference.latents[0].shape[0])
    return torch.stack([a.float() - b.float() for a, b in zip(follow.outputs, reference.outputs, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--bits", default="w4a8")
    parser.add_argument("--plan", type=Path, help="a quantisation plan, instead of rounding to the nearest")
    parser.add_argument("--speedup", type=float, default=2.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--num", type=int, default=8, help="prompts that are fitted to, and as many that are judged")
    parser.add_argument("--noise-only", action="store_true", help="draw nothing with the plans")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_embedded(args.model)
    pipe.set_progress_bar_config(disable=True)
    settings = GenerationSettings(num_inference_steps=args.steps)
    listed = load_prompts("search", "video" if makes_video(pipe) else "image").prompts

    def draw(first: int, last: int) -> torch.Tensor:
        return generate(pipe, listed[first:last], range(first, last), settings)

    config: Any = QuantizeConfig(bits=args.bits, backend="integers")
    if args.plan is not None:
        config = AccelerationPlan.from_pretrained(args.plan).passes[0]
    reference = record(pipe, draw, 0, args.num)
    noise = noise_of(pipe, draw, reference, config)
    computed = TrajectoryConfig(speedup=args.speedup).steps_of(len(noise))
    plain = fit(pipe, draw, reference, computed, 0, args.num).config
    with quantised_beneath(pipe, config):
        joint = fit(pipe, draw, reference, computed, 0, args.num).config
    every = max(2, round(args.speedup))
    ways = {
        "neighbours, order 1, 3 ahead": neighbours(len(noise), 3, 1),
        "neighbours, order 2, 3 ahead": neighbours(len(noise), 3, 2),
        "Taylor, order 1": taylor(len(noise), every, 1),
        "Taylor, order 2": taylor(len(noise), every, 2),
        "Taylor, order 3": taylor(len(noise), every, 3),
    }
    for name, found in (("fitted on the plain model", plain), ("fitted on the quantised model", joint)):
        assert found.weights is not None
        rows = rows_of(found.weights)
        ways[name] = {step: row for step, row in rows.items() if step not in computed}
    result: dict[str, Any] = {"model": args.model, "bits": args.bits, "steps": args.steps, "n": args.num, "noise": {}}
    for name, rows in ways.items():
        gains = amplification(rows, noise)
        if gains:
            norms = [sum(w * w for step, w in row.items() if step >= 0) ** 0.5 for row in rows.values()]
            alone = sum(norms) / len(norms)
            result["noise"][name] = {"mean": sum(gains) / len(gains), "most": max(gains), "independent": alone}
            print(
                f"{name:32s} noise times {sum(gains) / len(gains):.2f} on average, {max(gains):.2f} at most; "
                f"{alone:.2f} if errors of steps were independent"
            )
    flat = noise.flatten(1)
    alike = torch.nn.functional.cosine_similarity(flat[1:], flat[:-1]).mean()
    result["cosine of neighbouring errors"] = float(alike)
    print(f"errors of neighbouring steps have a cosine of {alike:.2f}")
    if args.noise_only:
        if args.output is not None:
            args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return
    held = range(args.num, 2 * args.num)
    wanted = draw(held[0], held[-1] + 1)
    plans: dict[str, tuple[Any, ...]] = {"quantised": (config,), "plain fit": (config, plain)}
    plans |= {"joint fit": (config, joint), "no rounding": (plain,)}
    for name, passes in plans.items():
        with accelerated(pipe, list(passes)):
            scores = differences(draw(held[0], held[-1] + 1), wanted, perceptual=available_perceptual())
        result[name] = {key: sum(values) / len(values) for key, values in scores.items()}
        print(f"{name:32s}", {key: round(value, 4) for key, value in result[name].items()})
    if args.output is not None:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
