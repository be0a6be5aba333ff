"""How much of rounding noise a forecast from earlier outputs multiplies, and what a fit on the noisy model leaves.

    python benchmarks/quant_noise.py emoji-pixart --output benchmarks/results/quant-noise-emoji-pixart.json

Teacher-forced: the quantised denoiser is given the latents of the plain run, so that its error at every step is known
by itself. A forecast is linear in the outputs it is made from, so its error from their noise is the same sum of their
errors; the ratio to the error of a computed output is the amplification. NVIDIA's cosmos-framework (pull request 247)
turns caching off for quantised models because Taylor forecasts multiply it.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from quant_common import Subject, load, resumed, save, scores_of, shipped

from dit_accel import QuantizeConfig, TrajectoryConfig, accelerated
from dit_accel.calibration.fit import fit
from dit_accel.calibration.quant_beneath import quantised_beneath
from dit_accel.calibration.recording import Recording, record
from dit_accel.passes.trajectory.config import rows_of


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


def noise_of(subject: Subject, reference: Recording, config: QuantizeConfig) -> torch.Tensor:
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
    with quantised_beneath(subject.pipe, config), listening(subject.pipe, follow):
        subject.draw("search", 0, reference.latents[0].shape[0], whole=True)
    return torch.stack([a.float() - b.float() for a, b in zip(follow.outputs, reference.outputs, strict=True)])


def forecasts(steps: int, every: int) -> dict[str, dict[int, dict[int, float]]]:
    """Weights of what others forecast by, by step that is answered and steps that it is answered from."""
    return {
        "from neighbouring steps, order 1, 1 to 3 ahead": neighbours(steps, 3, 1),
        "from neighbouring steps, order 2, 1 to 3 ahead": neighbours(steps, 3, 2),
        **{f"TaylorSeer's, order {order}": taylor(steps, every, order) for order in (1, 2, 3)},
    }


def row_of(rows: dict[int, dict[int, float]], noise: torch.Tensor) -> dict[str, float] | None:
    """Mean and most amplification of a way to answer, and what it would be if errors of steps were strangers."""
    gains = amplification(rows, noise)
    if not gains:
        return None
    norms = [sum(w * w for step, w in row.items() if step >= 0) ** 0.5 for row in rows.values()]
    return {"mean": sum(gains) / len(gains), "most": max(gains), "independent": sum(norms) / len(norms)}


def measured(
    subject: Subject, config: QuantizeConfig, reference: Recording, speedup: float, num: int, pictures: bool
) -> dict[str, Any]:
    """All ways to answer, on the noise of one quantised model; with ``pictures`` what they draw."""

    def draw(first: int, last: int) -> torch.Tensor:
        return subject.draw("search", first, last, whole=True)

    noise = noise_of(subject, reference, config)
    computed = TrajectoryConfig(speedup=speedup).steps_of(len(noise))
    plain = fit(subject.pipe, draw, reference, computed, 0, num).config
    with quantised_beneath(subject.pipe, config):
        joint = fit(subject.pipe, draw, reference, computed, 0, num).config
    ways = forecasts(len(noise), max(2, round(speedup)))
    for name, found in (("plain", plain), ("quantised", joint)):
        assert found.weights is not None
        rows = rows_of(found.weights)
        ways[f"fitted trajectory, on the {name} model"] = {s: row for s, row in rows.items() if s not in computed}
    each = {name: row_of(rows, noise) for name, rows in ways.items()}
    flat = noise.flatten(1)
    cosine = float(torch.nn.functional.cosine_similarity(flat[1:], flat[:-1]).mean())
    result: dict[str, Any] = {"noise": {name: row for name, row in each.items() if row}, "cosine": cosine}
    if pictures:
        wanted = draw(num, 2 * num)
        plans: dict[str, tuple[Any, ...]] = {"quantised": (config,), "plain fit": (config, plain)}
        plans |= {"joint fit": (config, joint), "no rounding": (plain,)}
        result["pictures"] = {}
        for name, passes in plans.items():
            with accelerated(subject.pipe, list(passes)):
                result["pictures"][name] = scores_of(draw(num, 2 * num), wanted)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w4a8"])
    parser.add_argument("--shipped", action="store_true", help="plans that ship, not rounding to the nearest")
    parser.add_argument("--speedup", type=float, default=2.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--num", type=int, default=8, help="prompts that are fitted to, and as many that are judged")
    parser.add_argument("--noise-only", action="store_true", help="draw nothing with the plans")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    subject = load(args.model, args.steps)
    result: dict[str, Any] = {"model": args.model, "steps": args.steps, "n": args.num, "speedup": args.speedup}
    result = resumed(args.output, {**result, "shipped": args.shipped, "rows": {}})
    reference = record(subject.pipe, lambda a, b: subject.draw("search", a, b, whole=True), 0, args.num)
    for bits in args.bits:
        known = result["rows"].get(bits, {})
        if known and (args.noise_only or "pictures" in known):
            continue
        config = (shipped(args.model, bits) if args.shipped else None) or QuantizeConfig(bits=bits, backend="integers")
        found = measured(subject, config, reference, args.speedup, args.num, not args.noise_only)
        result["rows"][bits] = found
        for name, row in found["noise"].items():
            print(f"{bits} {name:50s} noise times {row['mean']:.2f} on average, {row['most']:.2f} at most", flush=True)
        print(f"{bits} errors of neighbouring steps have a cosine of {found['cosine']:.2f}", found.get("pictures", ""))
        save(args.output, result)


if __name__ == "__main__":
    main()
