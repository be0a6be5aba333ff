"""Puts what was found out of all chunks into one report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.distances import distance_notes
from dit_accel.evaluation.reports.environment import Environment
from dit_accel.evaluation.reports.records import (
    Alignment,
    Evaluation,
    Fidelity,
    Metric,
    Quality,
    Skipped,
    VideoQuality,
)
from dit_accel.evaluation.reports.report import Effects, Report, ReportSample, Settings, Variant
from dit_accel.evaluation.reports.scores import FidelityScores
from dit_accel.evaluation.suites import score
from dit_accel.evaluation.suites.job import ImageSource
from dit_accel.evaluation.suites.joined import Joined
from dit_accel.evaluation.suites.prompt_files import Item, PromptSet
from dit_accel.evaluation.suites.protocols import Suite
from dit_accel.evaluation.suites.real_images import RealFolder, RealImages
from dit_accel.evaluation.suites.score import Scorer
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.fingerprint import digest

if TYPE_CHECKING:
    pass

SKIPPED_SHOWN = 100
PNG_NOTE = "all numbers are of 8-bit PNG files"

MakeSettings = Callable[[tuple[int, ...], Conditions | None], Settings]
"""From the shape of the first image or video and from what could be told of an accelerated run."""


@dataclass(slots=True, kw_only=True)
class Gathering:
    """Makes the report.

    Attributes:
        suite: Which evaluation.
        scorer: Knows all chunks.
        sources: The variants' pictures, plain first.
        prompts: Where the items came from.
        per_prompt: Images or videos of each prompt.
        real: ``None`` without distances.
        environment: With which it was begun.
    """

    suite: Suite
    scorer: Scorer
    sources: Sequence[ImageSource]
    prompts: PromptSet
    per_prompt: int
    real: RealFolder | None
    environment: Environment

    def report(self, settings: MakeSettings, command: Sequence[str]) -> Report:
        """The whole report.

        Args:
            settings: Makes them.
            command: The command line.

        Raises:
            ConfigError: Nothing was left to measure.
        """
        kept, missing = self._kept()
        if not any(kept):
            raise ConfigError(f"no picture could be used; the first: {missing[0].where}: {missing[0].why}")
        real = None if self.real is None else RealImages.collect(self.scorer, self.real)
        skipped = [*self.prompts.skipped, *missing, *(real.skipped if real is not None else ())]
        joined = [Joined(scorer=self.scorer, source=source, kept=kept) for source in self.sources]
        variants = [self._variant(each, real) for each in joined]
        samples = tuple(ReportSample(prompt=item.prompt, seed=item.seed) for item in joined[0].items)
        return Report(
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=tuple(command),
            environment=self.environment,
            settings=settings(joined[0].shape, self._conditions()),
            samples=samples,
            variants=tuple(variants),
            notes=tuple(self._notes(variants, joined[0].items, skipped)),
            evaluation=Evaluation(
                suite=self.suite.name,
                prompts=self.prompts.source,
                prompts_sha256=digest([[sample.prompt, sample.seed] for sample in samples]),
                per_prompt=self.per_prompt,
                reference=None if self.real is None else self.real.name,
                num_reference=0 if real is None else len(real.names),
                num_skipped=len(skipped),
                skipped=tuple(skipped[:SKIPPED_SHOWN]),
                redrawn=tuple(name for each in joined for name in each.redrawn()),
            ),
        )

    @property
    def items(self) -> list[Item]:
        """What all variants have."""
        return [item for chunk in self._kept()[0] for item in chunk]

    def _kept(self) -> tuple[list[list[Item]], list[Skipped]]:
        """Items of each chunk that every variant has, and the others."""
        left_out = [self.scorer.left_out(self.sources, number) for number in range(len(self.scorer.chunks))]
        pairs = zip(self.scorer.chunks, left_out, strict=True)
        kept = [[item for item in chunk if item.name not in out] for chunk, out in pairs]
        return kept, [Skipped(where=name, why=why) for out in left_out for name, why in out.items()]

    def _variant(self, joined: Joined, real: RealImages | None) -> Variant:
        name, painter = joined.source.name, self.scorer.painters.get(joined.source.name)
        plan = None if painter is None else painter.plan
        drawn = [] if painter is None else [painter.drawn(number) for number in range(len(joined.kept))]
        effects = [each.effects for each in drawn if each.effects is not None]
        kind: Any = "images" if painter is None else "plain" if plan is None else "plan"
        fidelity = None
        if self.suite.fidelity and plan is not None:
            scores = {metric: tuple(values) for metric, values in joined.fidelity().items()}
            fidelity = Fidelity.of(FidelityScores(**scores))
        return Variant(
            name=name,
            kind=kind,
            num_inference_steps=0 if painter is None else painter.settings.num_inference_steps or 0,
            plan=None if plan is None else plan.to_dict(),
            certified=None if plan is None else plan.is_certified,
            fidelity=fidelity,
            quality=None if self.suite.fidelity else self._quality(joined, real),
            effects=Effects.mean(effects) if effects else None,
        )

    def _quality(self, joined: Joined, real: RealImages | None) -> Quality:
        """Of all items, and of each category."""
        items = joined.items
        features = None if real is None else joined.features()
        judged = {judge.name: joined.judged(judge) for judge in self.scorer.judges}
        video = joined.video() if joined.source.video else None

        def part(places: Sequence[int], category: str | None = None) -> Quality:
            return Quality(
                distances=() if real is None or features is None else real.distances(features[list(places)], category),
                alignment=tuple(self._alignment(judged, [items[place].name for place in places], joined.source)),
                video=None if video is None else self._video(video, places),
            )

        whole = part(range(len(items)))
        if not self.suite.by_category:
            return whole
        categories = {}
        for name in sorted({category for item in items for category in item.categories}):
            categories[name] = part([place for place, item in enumerate(items) if name in item.categories], name)
        return whole.model_copy(update={"categories": categories})

    def _alignment(
        self, judged: Mapping[str, Mapping[str, float]], names: Sequence[str], source: ImageSource
    ) -> list[Alignment]:
        frames = f"; mean over at most {score.JUDGED_FRAMES} frames" if source.video else ""
        found = []
        for judge in self.scorer.judges:
            values = [judged[judge.name][name] for name in names if name in judged[judge.name]]
            if values:
                model, scores = judge.model + frames, Metric.of(values)
                found.append(Alignment(name=judge.name, unit=judge.unit, model=model, scores=scores))
        return found

    def _video(self, values: Mapping[str, Sequence[float]], places: Sequence[int]) -> VideoQuality:
        def of(name: str) -> Metric | None:
            return Metric.of([values[name][place] for place in places]) if name in values else None

        flickering, network = of(score.FLICKERING), self.scorer.network
        assert flickering is not None
        return VideoQuality(
            temporal_flickering=flickering,
            motion_right=of(score.MOTION),
            frame_consistency=of(score.CONSISTENCY),
            consistency_network=None if network is None else network.facts.name,
        )

    def _conditions(self) -> Conditions | None:
        """What could be told of an accelerated run."""
        for painter in self.scorer.painters.values():
            found = painter.drawn(0).conditions
            if found is not None:
                return found
        return None

    def _notes(self, variants: Sequence[Variant], items: Sequence[Item], skipped: Sequence[Skipped]) -> list[str]:
        notes = [PNG_NOTE]
        if skipped:
            notes.append(f"{len(skipped)} prompts or images could not be used and are in no number")
        for judge in self.scorer.judges:
            unknown = judge.unknown([item.prompt for item in items])
            if unknown:
                notes.append(
                    f"{judge.name} can make nothing of {len(unknown)} captions, which are not in its mean, e.g. "
                    f"'{unknown[0]}'"
                )
        for quality in (variant.quality for variant in variants if variant.quality is not None):
            notes += distance_notes(quality.distances)
            lacking = [name for name, own in quality.categories.items() if quality.distances and not own.distances]
            if lacking:
                notes.append(f"no distance for categories of too few real or generated images: {', '.join(lacking)}")
        return list(dict.fromkeys(notes))
