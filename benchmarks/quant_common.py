"""What the benchmarks of quantisation share: a pipeline that draws from the prompt lists, and files of results."""

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from dit_accel import AccelerationPlan, QuantizeConfig, load_embedded
from dit_accel.evaluation.metrics.fidelity import differences
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.reports.environment import collect_environment
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.prompts import load_prompts

PLANS = Path(__file__).resolve().parents[1] / "schedules" / "plans"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An embedded pipeline, in fp32 on one thread, and what it draws.

    Attributes:
        model: Its name.
        pipe: Itself.
        settings: Of all runs.
    """

    model: str
    pipe: Any
    settings: GenerationSettings

    def draw(self, name: str, first: int, last: int, seed: int = 0, *, whole: bool = False) -> torch.Tensor:
        """Prompts ``first`` to ``last`` of a list, with seeds that count from ``seed``; ``whole``: in one batch."""
        video = makes_video(self.pipe)
        listed = load_prompts(name, "video" if video else "image").prompts[first:last]  # type: ignore[arg-type]
        seeds = range(seed + first, seed + first + len(listed))
        return generate(self.pipe, listed, seeds, self.settings, batch_size=None if whole else 1 if video else 4)


def load(model: str, steps: int | None) -> Subject:
    """A pipeline to be measured."""
    torch.set_num_threads(1)
    pipe = load_embedded(model)
    pipe.set_progress_bar_config(disable=True)
    return Subject(model=model, pipe=pipe, settings=GenerationSettings(num_inference_steps=steps))


def scores_of(drawn: torch.Tensor, plain: torch.Tensor) -> dict[str, float]:
    """Means, and the least PSNR."""
    found = differences(drawn, plain, perceptual=available_perceptual())
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return {**means, "worst_psnr_db": min(found["psnr_db"])}


def shipped(model: str, bits: str) -> QuantizeConfig | None:
    """The quantisation of the plan that ships for a model; ``None``: there is none."""
    folder = PLANS / model / bits
    if not folder.is_dir():
        return None
    passes = AccelerationPlan.from_pretrained(folder).passes
    return next(each for each in passes if isinstance(each, QuantizeConfig))


def save(path: Path | None, result: dict[str, Any]) -> None:
    """Write what is known so far, with the machine that it was measured on."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "environment": collect_environment().model_dump(mode="json"),
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    path.write_text(json.dumps({**result, **about}, indent=1) + "\n", encoding="utf-8")


def resumed(path: Path | None, result: dict[str, Any]) -> dict[str, Any]:
    """``result`` with the rows of an earlier run that was asked for the same things."""
    if path is None or not path.is_file():
        return result
    before = json.loads(path.read_text(encoding="utf-8"))
    same = all(before.get(name) == value for name, value in result.items() if name != "rows")
    return {**result, "rows": before["rows"]} if same else result
