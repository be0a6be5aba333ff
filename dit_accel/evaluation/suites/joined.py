"""Joins what was found out of the chunks of one variant's pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.alignment import Judge
from dit_accel.evaluation.suites import score
from dit_accel.evaluation.suites.job import ImageSource
from dit_accel.evaluation.suites.prompt_files import Item
from dit_accel.evaluation.suites.score import Scorer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """One variant.

    Attributes:
        scorer: Knows all chunks.
        source: Its pictures.
        kept: Its items, chunk by chunk, without those that some variant lacks.
    """

    scorer: Scorer
    source: ImageSource
    kept: Sequence[Sequence[Item]]

    @property
    def items(self) -> list[Item]:
        """All of them."""
        return [item for chunk in self.kept for item in chunk]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first image [1, 3, H, W] or video [1, F, 3, H, W]."""
        for item in self.items:
            if not self.source.fault(item):
                return tuple(self.source.tensor([item]).shape)
        raise ConfigError(f"no picture of '{self.source.name}' can be read any more")

    def features(self) -> "torch.Tensor":
        """Of all images, [N, D]."""
        import torch

        parts = [self.scorer.features(self.source, number, items) for number, items in enumerate(self.kept) if items]
        if any(part is None for part in parts):
            raise self._vanished()
        return torch.cat([part for part in parts if part is not None])

    def judged(self, judge: Judge) -> dict[str, float]:
        """A judge's score by the item's name, of those that it can judge."""
        known = [score.judgeable(judge, items) for items in self.kept]
        scores = self._values(score.judge_key(judge), known).get(score.SCORES, [])
        return dict(zip((item.name for items in known for item in items), scores, strict=True))

    def fidelity(self) -> dict[str, list[float]]:
        """Closeness to the plain run, by metric."""
        return self._values(score.fidelity_key(), self.kept)

    def video(self) -> dict[str, list[float]]:
        """What was said of videos, by metric."""
        return self._values(self.scorer.video_key, self.kept)

    def redrawn(self) -> list[str]:
        """What was found damaged and made anew."""
        notes = [self.scorer.job.note(self.source.name, score.REDRAWN, number) for number in range(len(self.kept))]
        return [f"{self.source.name}/{name}" for note in notes if note is not None for name in note["names"]]

    def _values(self, kind: str, chunks: Sequence[Sequence[Item]]) -> dict[str, list[float]]:
        joined: dict[str, list[float]] = {}
        for number, items in enumerate(chunks):
            if items:
                found = self.scorer.values(self.source, kind, number, items)
                if found is None:
                    raise self._vanished()
                for name, values in found.items():
                    joined.setdefault(name, []).extend(values)
        return joined

    def _vanished(self) -> ConfigError:
        return ConfigError(f"numbers have vanished from '{self.scorer.job.progress}'; run the same command again")
