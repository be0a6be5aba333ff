"""Who scores pictures in ECAD's setting: a judge by name, or the first that is at hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.evaluation.metrics.alignment import Judge
from dit_accel.evaluation.metrics.perceptual import load_perceptual
from dit_accel.evaluation.suites.judges import load_judge
from dit_accel.evaluation.suites.protocols import IMAGE_REWARD, TWO_TOWER

ST_LPIPS = "st_lpips"

Score = Callable[[torch.Tensor, Sequence[str], Sequence[int]], Sequence[float]]
"""From pictures, captions and the places of these among all images to scores, higher is better."""


def judge_named(name: str | None, weights: Path) -> tuple[str, Score | None]:
    """A judge's name and its scores; ``None`` in place of these for the distance from the plain pictures."""
    wanted = (name,) if name is not None else (IMAGE_REWARD, TWO_TOWER, ST_LPIPS)
    reasons = []
    for each in wanted:
        try:
            if each == ST_LPIPS:
                load_perceptual(ST_LPIPS)
                return each, None
            return each, _by(load_judge(each, weights))
        except (ConfigError, MissingDependencyError) as error:
            if name is not None:
                raise
            reasons.append(f"{each}: {error}")
    raise MissingDependencyError("no judge is at hand; " + "; ".join(reasons))


def _by(judge: Judge) -> Score:
    return lambda images, texts, places: judge.scores(images, texts)


def closeness(plain: Sequence[torch.Tensor]) -> Score:
    """1 - ST-LPIPS to the plain pictures: not what ECAD maximises, but at hand offline for any model."""
    every = torch.cat(list(plain))
    distance = load_perceptual(ST_LPIPS)
    return lambda images, texts, places: (1 - distance(images, every[list(places)])).tolist()
