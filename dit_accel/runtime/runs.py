"""What belongs to a run of one denoiser: its conditions, its statistics, and what is warned of."""

from typing import Any

from dit_accel.errors import PlanMismatchError
from dit_accel.families.grid import token_grid
from dit_accel.families.targets import Target
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.runtime.call import Frame, Run
from dit_accel.runtime.clock import Clock
from dit_accel.runtime.left_out import LeftOut
from dit_accel.runtime.observe import conditions_of_run, warn_user
from dit_accel.runtime.sockets import Sockets
from dit_accel.runtime.stats import RunStats
from dit_accel.runtime.tracks import InputReader
from dit_accel.schedules.lowering import compute_everything


class Runs(Sockets):
    """The runs of one denoiser.

    Args:
        target: The denoiser.
        clock: Shared by all denoisers of the pipeline.
        plan: Its conditions are compared with those of each run.
        strict: Turn warnings into :class:`PlanMismatchError`.

    Attributes:
        graph: The sites.
        frame: What the wrappers of sites see.
        run: The current run; ``None`` before the first.
        stats: What it did.
        inputs: Reads latents and conditioning from a call's arguments.
    """

    def __init__(self, target: Target, clock: Clock, *, plan: AccelerationPlan, strict: bool) -> None:
        super().__init__(target.name, target.layout)
        self.target = target
        self.clock = clock
        self.plan = plan
        self.strict = strict
        self.graph = target.layout.graph
        self.frame = Frame(
            actions=compute_everything(self.graph).actions,
            slots=[None] * len(self.graph),
            keepers=self.keepers,
            numbers=[()] * len(self.graph),
            hollows=[None] * len(self.graph),
            left_out=LeftOut(target.denoiser, target.layout),
            clones=[False] * len(self.graph),
            called=[False] * len(self.graph),
        )
        self.run: Run | None = None
        self.stats = RunStats()
        self.inputs = InputReader(target.denoiser, target.family.conditioning)
        self._warned: set[str] = set()

    @property
    def left_out(self) -> LeftOut:
        """Sites that a run has shown cannot be kept."""
        return self.frame.left_out

    @property
    def name(self) -> str:
        """Attribute of the pipeline that holds the denoiser, for messages."""
        return self.target.name

    def begin_run(self, num_steps: int, args: tuple[Any, ...], kwargs: dict[str, Any], *, compiled: bool) -> None:
        """The first call of a run: compare its conditions, set the counters to nought, tell the passes."""
        target, frame = self.target, self.frame
        frame.counting = not compiled and not any(m._compiled_call_impl for m in target.denoiser.modules())
        frame.computed = frame.reused = 0
        frame.called = [False] * len(self.graph)
        signature = self.inputs(args, kwargs).signature
        grid = token_grid(target.family, target.denoiser, self.inputs.by_name(args, kwargs))
        found = conditions_of_run(
            self.clock.owner,
            self.clock.scheduler,
            target.denoiser,
            num_steps=num_steps,
            latent_size=target.family.latent_size(signature[0][0]) if signature else None,
            grid=grid,
        )
        self.run = Run(
            number=self.clock.run, num_steps=num_steps, scheduler=self.clock.scheduler, grid=grid, conditions=found
        )
        for doubt in self.plan.doubts(found):
            self.warn(doubt)
        self.stats = RunStats(num_steps=num_steps, conditions=found, uncovered=self.plan.uncovered(found))
        if not frame.counting:
            self.stats.actual_computed = self.stats.actual_reuse = None
        for hook in self.on_run:
            hook(self.run)

    def check_effects(self) -> None:
        """The run has ended: warn of what was planned and did not happen."""
        if self.run is None or self.run.number != self.clock.run or not self.stats.calls:
            return
        for effect in self.effects().values():
            if effect.shortfall is not None:
                self.warn(effect.shortfall)

    @property
    def never_called(self) -> tuple[str, ...]:
        """Sites of the last run's rows whose module was not called at all."""
        return tuple(self.graph.sites[p].id for p in self.stats.active if not self.frame.called[p])

    def remember(self, older: "Runs") -> None:
        """Take over what ``summary`` tells of the last run: this one puts back the plan that the other one had."""
        self.stats, self.frame.called = older.stats, older.frame.called

    def warn(self, message: str) -> None:
        """Warn once; with ``strict`` raise instead.

        Raises:
            PlanMismatchError: ``strict`` is set.
        """
        if self.strict:
            raise PlanMismatchError(message)
        if message not in self._warned:
            self._warned.add(message)
            warn_user(message)
