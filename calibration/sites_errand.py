"""The search over calls and sites on many hands: the map of :mod:`.spread`, with candidates and verdicts of its own.

A candidate is a genome and the number of prompts to judge it by. What it costs is the leader's to say, who has the
table of site times: verdicts hold what a run shows, which is the same wherever it is made.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_accel.calibration.judging import drawing
from dit_accel.calibration.kept_moments import load_moments
from dit_accel.calibration.sites_genome import Genome, groups_of
from dit_accel.calibration.sites_judge import SiteJudge, SiteVerdict
from dit_accel.calibration.spread import recording_at
from dit_accel.families.targets import find_targets
from dit_accel.pipelines.generation import GenerationSettings

SiteTask = tuple[Genome, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SitesErrand:
    """What a hand has to know beside its pipeline.

    Attributes:
        prompts: All search prompts.
        settings: Of the runs.
        recording: Folder of the recorded run and of the moments.
        branches: Whether each guidance branch gets weights of its own.
    """

    prompts: tuple[str, ...]
    settings: GenerationSettings
    recording: Path
    branches: bool = False

    def judge_on(self, pipe: Any) -> SiteJudge:
        """The judge of another process.

        Raises:
            DitAccelError: The recording cannot be read there.
        """
        return SiteJudge(
            pipe=pipe,
            draw=drawing(pipe, self.prompts, self.settings),
            reference=recording_at(self.recording),
            groups=groups_of(find_targets(pipe)[0].layout.graph),
            moments=load_moments(self.recording),
            branches=self.branches,
        )

    def read(self, data: dict[str, Any]) -> SiteVerdict:
        """Read a verdict."""
        return SiteVerdict.from_plain(data)

    def lost(self, task: SiteTask, why: str) -> SiteVerdict:
        """It has a fault."""
        return SiteVerdict(genome=task[0], num_prompts=task[1], fault=why)
