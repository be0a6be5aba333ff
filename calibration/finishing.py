"""From a judged point to a plan: what was fitted to judge it, and at the end what only the front is worth."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dit_accel.calibration.calls import Steps, words
from dit_accel.calibration.cohorts import in_cohorts
from dit_accel.calibration.front import Point
from dit_accel.calibration.guard import with_guard
from dit_accel.calibration.guidance import over_guidance
from dit_accel.calibration.judging import Judge
from dit_accel.calibration.shelf import place_of, plan_at, put
from dit_accel.calibration.subject import Subject
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.plan.config import PassConfig
from dit_accel.plan.plan import NOT_CERTIFIED, AccelerationPlan

CALIBRATED_NOTE = f"calibrated on search prompts, {NOT_CERTIFIED}: `dit-accel certify` measures it on others"


class Finisher:
    """Makes the plans of a calibration, and finishes those of its front.

    Args:
        subject: Of the calibration.
        judge: Has fitted, or fits, the candidates.
        folder: Of the calibration.
        guidance_values: Further guidance scales to fit weights to.
        sweeps: How often the answers of a plan of the front are refitted for the end of the run.

    Attributes:
        configs: What was fitted in this process, by computed evaluations.
    """

    def __init__(
        self,
        subject: Subject,
        judge: Judge,
        folder: Path,
        guidance_values: Sequence[float] = (),
        sweeps: int = 0,
    ) -> None:
        self.subject, self.judge, self.folder = subject, judge, folder
        self.guidance_values = tuple(guidance_values)
        self.sweeps = sweeps
        self.configs: dict[Steps, PassConfig] = {}

    def plan(self, point: Point) -> AccelerationPlan:
        """The plan of a point, from this process, from disk, or fitted anew."""
        kept = None if point.computed in self.configs else plan_at(self.folder, point)
        if kept is not None:
            return kept
        config = self.configs.get(point.computed) or self.judge.fit(point.computed).config
        return AccelerationPlan(
            name=f"trajectory-{words(point.computed)}-of-{point.num_steps}",
            passes=(config,),
            fingerprints=self.subject.fingerprints,
            conditions=self.judge.reference.conditions,
            notes=(CALIBRATED_NOTE,),
        )

    def shelve(self, point: Point) -> None:
        """Put the plan of a point on disk as it is."""
        put(self.plan(point), place_of(self.folder, point))

    def finish(self, point: Point) -> bool:
        """Put its finished plan on disk; whether there was anything to do.

        Finished is a plan with its answers swept, its guard, and its weights for other guidance: runs that only the
        front is worth.
        """
        kept = plan_at(self.folder, point)
        if kept is not None and self._is_finished(kept):
            return False
        put(self.finished(point), place_of(self.folder, point))
        return True

    def finished(self, point: Point) -> AccelerationPlan:
        """The finished plan of a point, which need not be on the front."""
        plan = self.plan(point)
        if self._is_finished(plan):
            return plan
        with in_cohorts(self.subject.pipe, self.judge.cohort):
            return self._finished(plan, point.computed)

    def _is_finished(self, plan: AccelerationPlan) -> bool:
        (config,) = plan.passes
        assert isinstance(config, TrajectoryConfig)
        own = self.judge.reference.conditions.guidance_scale
        wanted = {own, *self.guidance_values} if self.guidance_values else set()
        return bool(config.guard) and set(config.guidance) == wanted

    def _finished(self, plan: AccelerationPlan, steps: Steps) -> AccelerationPlan:
        (config,) = (self.judge.fit(steps, self.sweeps).config,) if self.sweeps else plan.passes
        assert isinstance(config, TrajectoryConfig)
        config = replace(config, guidance=(), guided_weights=None, guided_unconditional=None)  # of another range
        pipe, count, conditions = self.subject.pipe, self.subject.count, self.judge.reference.conditions
        config = with_guard(pipe, self.judge.draw, config, 0, count)
        if self.guidance_values:
            own, draw_at = conditions.guidance_scale, self.subject.draw_at
            how = {"tail": self.judge.tail, "sweeps": self.sweeps}
            config = over_guidance(pipe, draw_at, config, own, self.guidance_values, count, **how)
            conditions = replace(conditions, guidance_scale=None, guidance_scale_2=None)
        return replace(plan, passes=(config,), conditions=conditions)
