"""The one trainer of all methods: turns of several optimisers, EMA, exact resume, rollback, sample sheets.

A step gives each role of ``objective.turns(step)`` its turn: loss, gradients, clip, optimiser step. Everything random
comes from one generator that is saved in the checkpoint, so a run that was killed goes on to the very weights it would
have had; and the checkpoint knows whose it is, so it is not gone on with as something else.
Networks are called as they are, never through a wrapper, because forward-mode differentiation cannot see through one;
several processes average gradients themselves.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.evaluation.progress_files import differing
from dit_accel.training.distill import draws
from dit_accel.training.distill.guard import DivergedError, GuardConfig
from dit_accel.training.distill.log import TrainLog
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.roles import Roles
from dit_accel.training.distill.turn import Turn
from dit_accel.training.distill.workers import Workers
from dit_accel.training.loop import LoopConfig

logger = logging.getLogger("dit_accel")

Probe = Callable[[], float]
SampleFn = Callable[[int], None]


class DistillTrainer:
    """Trains the student of an objective, and whoever helps it.

    Args:
        objective: The method.
        roles: The roles it names.
        config: Length, rates and intervals. ``batch_size`` is for the log; ``lr`` is the student's.
        run_dir: Folder of checkpoint, log and sheets.
        identity: All that the weights hang on, as JSON data; a checkpoint of another one is refused.
        seed: Of everything random.
        lr_of: Learning rates of other turns than the student's; the student's by default.
        guard: When to roll back.
        probe: Returns the diversity of the student's samples as a share of the teacher's.
        sample_fn: Called with the step number now and then, with the averaged student in place.
        workers: Processes that train together; this one alone by default.
    """

    def __init__(
        self,
        objective: DistillObjective,
        roles: Roles,
        config: LoopConfig,
        *,
        run_dir: Path,
        identity: Mapping[str, Any],
        seed: int = 0,
        lr_of: dict[str, float] | None = None,
        guard: GuardConfig | None = None,
        probe: Probe | None = None,
        sample_fn: SampleFn | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.objective, self.roles, self.config, self.run_dir = objective, roles, config, run_dir
        self.guard, self.probe, self.sample_fn, self.seed = guard or GuardConfig(), probe, sample_fn, seed
        self.workers, self.identity = workers or Workers(), dict(identity)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.student = objective.roles[0]
        self.turns = {
            name: Turn.of(self._parameters(name), (lr_of or {}).get(name, config.lr), config.weight_decay)
            for name in self._turn_names()
        }
        self._averaged = self.turns[self.student].parameters
        self.ema = EMAModel(self._averaged, decay=config.ema_decay, foreach=True)
        self.generator = torch.Generator().manual_seed(self._seed_at(0, 0))
        self.step = self.rollbacks = self._saves = 0
        self._rank_draws = draws.RankDraws(self.checkpoint_path, self.workers)
        self._rolled_back_at = -1
        self.first_diversity = 1.0
        self.lr_scale = 1.0
        self.train_seconds = 0.0
        self.log = TrainLog(objective.name, run_dir)

    @property
    def checkpoint_path(self) -> Path:
        """The one checkpoint; processes share it, and all but the first keep their generators beside it."""
        return self.run_dir / f"{self.objective.name}.ckpt.pt"

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.steps

    def run(self, max_minutes: float | None = None) -> None:
        """Train until all steps are done or the time is up, then save.

        Raises:
            DivergedError: It diverged more often in a row than the guard allows.
        """
        if self.step == 0:
            if self.probe is not None and self.guard.probe_steps:
                self.first_diversity = self.workers.first(self.probe())
            self.save()  # also over one of a former run: a rollback must not go there
        start = last = saved = sampled = self.workers.clock()
        while not self.finished:
            trouble = self._train_step()
            if trouble is None and self._probe_due():
                trouble = self._look()
            if trouble is not None:
                self._roll_back(trouble)
                continue
            now = self.workers.clock()
            self.train_seconds += now - last
            last = now
            if self.step % self.config.log_steps == 0 or self.finished:
                self._tell()
            if now - saved > 60 * self.config.save_minutes:
                self.save()
                saved = self.workers.clock()
            if self.config.sample_minutes and now - sampled > 60 * self.config.sample_minutes:
                self.sample()
                sampled = last = self.workers.clock()
            if max_minutes is not None and now - start > 60 * max_minutes:
                logger.info("%s: time is up at step %d of %d", self.objective.name, self.step, self.config.steps)
                break
        self.save()
        if self.finished:
            self.sample()

    def sample(self) -> None:
        """Call the sample function with the averaged student in place; training randomness is not touched."""
        if self.sample_fn is not None and self.workers.is_main:
            with self.averaged(), torch.no_grad():
                self.sample_fn(self.step)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving average into the student for the time being."""
        self.ema.store(self._averaged)
        self.ema.copy_to(self._averaged)
        try:
            yield
        finally:
            self.ema.restore(self._averaged)

    def save(self) -> None:
        """Write the checkpoint; a kill in the middle leaves the former one."""
        if self.rollbacks and self._good_since_rollback():
            self.rollbacks = 0
        self._saves += 1
        self._rank_draws.write(self._saves, self.generator)
        self.workers.wait()
        if self.workers.is_main:
            draws.replace(self.checkpoint_path, {
                "identity": self.identity, "save": self._saves, "draws": draws.state_of(self.generator),
                "step": self.step, "rollbacks": self.rollbacks, "lr_scale": self.lr_scale,
                "rolled_back_at": self._rolled_back_at, "first_diversity": self.first_diversity,
                "train_seconds": self.train_seconds, "ema": self.ema.state_dict(),
                "roles": {role: _detached(self.roles.parameters(role)) for role in self.roles.trained},
                "modules": {name: module.state_dict() for name, (_, module) in self.objective.modules.items()},
                "optimizers": {name: turn.optimizer.state_dict() for name, turn in self.turns.items()},
            })  # fmt: skip
        self.workers.wait()
        self._rank_draws.tidy(self._saves)

    def load(self) -> bool:
        """Continue from the checkpoint, exactly; returns whether there was one.

        Raises:
            ConfigError: The checkpoint is of a training with other options.
            DitAccelError: It is of other networks.
        """
        if not self.checkpoint_path.exists():
            return False
        state = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        if names := differing(state.get("identity", {}), self.identity):
            raise ConfigError(
                f"{self.checkpoint_path} is of another training, which differs in: {', '.join(names)}. Give the same "
                "options again, or another --run-dir, or start afresh (--no-resume)."
            )
        try:
            for role in self.roles.trained:
                self.roles.load(role, state["roles"][role])
            for name, (_, module) in self.objective.modules.items():
                module.load_state_dict(state["modules"][name])
            for name, turn in self.turns.items():
                turn.optimizer.load_state_dict(state["optimizers"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise DitAccelError(
                f"{self.checkpoint_path} is of other networks than these: take another run folder, or start afresh "
                "(--no-resume)."
            ) from error
        self.first_diversity = state["first_diversity"]
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self._averaged[0].device)
        self.step, self.rollbacks, self.lr_scale = state["step"], state["rollbacks"], state["lr_scale"]
        self.train_seconds, self._rolled_back_at = state["train_seconds"], state["rolled_back_at"]
        self._saves = state["save"]
        own = state["draws"] if self.workers.is_main else self._rank_draws.read(self._saves)
        if own is None:
            self.generator.manual_seed(self._seed_at(self.step, self.rollbacks))
        else:
            draws.restore(self.generator, own)
        logger.info("%s: at step %d of %d", self.objective.name, self.step, self.config.steps)
        return True

    def _turn_names(self) -> tuple[str, ...]:
        """Roles, then modules that have a turn of their own."""
        own = tuple(turn for turn, _ in self.objective.modules.values() if turn not in self.objective.roles)
        return (*self.objective.roles, *dict.fromkeys(own))

    def _parameters(self, turn: str) -> list[torch.nn.Parameter]:
        found = list(self.roles.parameters(turn).values()) if turn in self.roles.trained else []
        for at, module in self.objective.modules.values():
            found += [p for p in module.parameters() if p.requires_grad] if at == turn else []
        return found

    def _train_step(self) -> str | None:
        """Take one step; returns what went wrong."""
        for name in self.objective.turns(self.step):
            turn = self.turns[name]
            turn.optimizer.zero_grad(set_to_none=True)
            loss = self.objective.loss(name, self.step, self.generator)
            lr_frac = self.config.lr_at(self.step) / self.config.lr * self.lr_scale
            trouble = turn.take(loss, lr_frac, self.config.grad_clip, self.workers)
            if trouble is not None:
                return f"the loss of '{name}' {trouble}"
        self.ema.step(self._averaged)
        self.step += 1
        return None

    def _probe_due(self) -> bool:
        every = self.guard.probe_steps
        return self.probe is not None and every > 0 and self.step % every == 0

    def _look(self) -> str | None:
        assert self.probe is not None
        with torch.no_grad():
            share = self.workers.first(self.probe())
        logger.info("%s: diversity %.2f of the teacher's", self.objective.name, share)
        return self.guard.trouble(share, self.first_diversity)

    def _roll_back(self, trouble: str) -> None:
        """Take up the last good checkpoint with other draws and smaller steps.

        The checkpoint's own counts are older than this trouble, so they are carried over the load and written back:
        a kill right after a rollback must not forget it.
        """
        at, rollbacks, lr_scale = self.step, self.rollbacks + 1, self.lr_scale * self.guard.lr_factor
        if rollbacks > self.guard.rollbacks:
            raise DivergedError(
                f"{self.objective.name}: {trouble} at step {at}, after {self.rollbacks} rollbacks. Lower --lr; the "
                f"last good checkpoint is {self.checkpoint_path}."
            )
        self.load()
        self.rollbacks, self.lr_scale, self._rolled_back_at = rollbacks, lr_scale, at
        self.generator.manual_seed(self._seed_at(self.step, rollbacks))
        for turn in self.turns.values():
            turn.forget()
        logger.warning(
            "%s: %s at step %d; back to step %d, learning rates times %g",
            self.objective.name, trouble, at, self.step, self.guard.lr_factor,
        )  # fmt: skip
        self.save()

    def _good_since_rollback(self) -> bool:
        return self.step > self._rolled_back_at

    def _seed_at(self, step: int, rollbacks: int) -> int:
        return (self.seed * 1_000_003 + step) * 1009 + 97 * rollbacks + self.workers.rank

    def _tell(self) -> None:
        means = {name: turn.forget() for name, turn in self.turns.items()}
        if self.workers.is_main:
            seen = {name: mean for name, mean in means.items() if mean is not None}
            self.log.write(self.step, self.config.steps, self.train_seconds, seen)


def _detached(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().cpu() for name, parameter in parameters.items()}
