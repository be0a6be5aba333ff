"""The one training loop: optimiser, cosine schedule, EMA, bf16, exact resume, log lines, sample sheets.

It knows nothing of images or text. A *task* hands it named modules and a function that returns a loss, drawing all
its randomness from the generator it is given; the VAE and every denoiser are trained by this same code, on CPU and
GPU alike.
"""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel

from dit_accel.errors import ConfigError, DitAccelError

logger = logging.getLogger("dit_accel")

LossFn = Callable[[torch.Generator], torch.Tensor]
SampleFn = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        steps: Optimiser steps in all; the cosine schedule ends there.
        batch_size: Samples a step.
        lr: Peak learning rate of AdamW.
        warmup_steps: Linear warm-up.
        min_lr_frac: Final learning rate as a fraction of the peak.
        weight_decay: Decoupled weight decay.
        grad_clip: Clip of the global gradient norm.
        ema_decay: Decay of the exponential moving average; the first steps use (1 + n) / (10 + n) when lower.
        save_minutes: Minutes between checkpoints.
        sample_minutes: Minutes between sample sheets; 0 draws none.
        log_steps: Steps between log lines.
    """

    steps: int
    batch_size: int
    lr: float
    warmup_steps: int = 100
    min_lr_frac: float = 0.02
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    save_minutes: float = 3.0
    sample_minutes: float = 5.0
    log_steps: int = 50

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.steps < 1 or self.batch_size < 1:
            raise ConfigError(f"steps and batch_size must be positive, got {self.steps} and {self.batch_size}.")
        if not 0 < self.lr < 1:
            raise ConfigError(f"lr must lie in (0, 1), got {self.lr}.")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")

    def lr_at(self, step: int) -> float:
        """Learning rate of the given step: linear warm-up, then half a cosine to ``min_lr_frac``."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = min((step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1), 1.0)
        return self.lr * (self.min_lr_frac + (1 - self.min_lr_frac) * 0.5 * (1 + math.cos(math.pi * done)))


class TrainLoop:
    """Trains the given modules together and keeps their moving average.

    Args:
        name: Names the checkpoint and the log, for example ``"vae"``.
        modules: Modules by name. Parameters that do not require gradients are saved but not trained.
        loss_fn: Returns the loss of one step, a scalar; draws everything random from the generator given.
        config: Length, rates and intervals.
        run_dir: Folder of checkpoint, log and sample sheets; made when missing.
        seed: Seed of the generator.
        draw_device: Device of the generator that ``loss_fn`` is given. On a GPU, drawing there spares every step
            copies from the host, each of which the host would have to wait for.
        sample_fn: Called with the step number now and then, with the averaged weights in place.
    """

    def __init__(
        self,
        *,
        name: str,
        modules: dict[str, torch.nn.Module],
        loss_fn: LossFn,
        config: LoopConfig,
        run_dir: Path,
        seed: int,
        draw_device: torch.device | None = None,
        sample_fn: SampleFn | None = None,
    ) -> None:
        self.name, self.modules, self.loss_fn, self.config = name, modules, loss_fn, config
        self.run_dir, self.sample_fn = run_dir, sample_fn
        run_dir.mkdir(parents=True, exist_ok=True)
        self.parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
        self.ema = EMAModel(self.parameters, decay=config.ema_decay, foreach=True)
        self.generator = torch.Generator(draw_device or torch.device("cpu")).manual_seed(seed)
        self.seed = seed
        self.step = 0
        self.train_seconds = 0.0

    @property
    def checkpoint_path(self) -> Path:
        """Where the one checkpoint of this loop lies."""
        return self.run_dir / f"{self.name}.ckpt.pt"

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.steps

    def run(self, max_minutes: float | None = None) -> None:
        """Train until all steps are done or the time is up, then save. When they were done before, do nothing.

        Args:
            max_minutes: Stop, with a checkpoint, after this many minutes of this call.

        Raises:
            RuntimeError: The loss is not finite (the last good checkpoint stays as it is).
        """
        if self.finished:
            return
        for module in self.modules.values():
            module.train()
        start = last = saved = sampled = time.monotonic()
        window: list[torch.Tensor] = []
        timed, timed_step = start, self.step
        while not self.finished:
            window.append(self._train_step())
            now = time.monotonic()
            self.train_seconds += now - last
            last = now
            if timed == start:
                timed, timed_step = now, self.step  # the first step compiles; it says nothing of the others
            if self.step % self.config.log_steps == 0 or self.finished:
                loss = float(torch.stack(window).mean())
                if not math.isfinite(loss):
                    raise RuntimeError(
                        f"{self.name}: the loss is {loss} at step {self.step}; lower the learning rate."
                    )
                window.clear()
                rate = (self.step - timed_step) / (now - timed) if now > timed else 1 / (now - start)
                self._log(loss, rate)
            if now - saved > 60 * self.config.save_minutes:
                self.save()
                saved = time.monotonic()
            if self.config.sample_minutes and now - sampled > 60 * self.config.sample_minutes:
                self.sample()
                sampled = last = time.monotonic()
            if max_minutes is not None and now - start > 60 * max_minutes:
                logger.info("%s: time is up at step %d of %d", self.name, self.step, self.config.steps)
                break
        self.save()
        if self.finished:
            self.sample()

    def sample(self) -> None:
        """Call the sample function with the averaged weights in place; training randomness is not touched."""
        if self.sample_fn is None:
            return
        with self.averaged(), torch.no_grad():
            self.sample_fn(self.step)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving average into the modules for the time being, in eval mode."""
        modes = {name: module.training for name, module in self.modules.items()}
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        for module in self.modules.values():
            module.eval()
        try:
            yield
        finally:
            self.ema.restore(self.parameters)
            for name, module in self.modules.items():
                module.train(modes[name])

    def save(self) -> None:
        """Write the checkpoint; a kill in the middle leaves the former one."""
        state = {
            "step": self.step,
            "train_seconds": self.train_seconds,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
        }
        partial = self.checkpoint_path.with_suffix(".tmp")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint_path)

    def load(self) -> bool:
        """Continue from the checkpoint, exactly; returns whether there was one.

        Raises:
            DitAccelError: The checkpoint is of other modules.
        """
        if not self.checkpoint_path.exists():
            return False
        device = self.parameters[0].device
        state = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        try:
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
        except (KeyError, RuntimeError) as error:
            raise DitAccelError(
                f"{self.checkpoint_path} is of another model than this recipe's: take another run folder, or start "
                "afresh (--no-resume)."
            ) from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(device)
        self._set_generator(state["generator"], state["step"])
        torch.set_rng_state(state["torch_rng"])
        self.step, self.train_seconds = state["step"], state["train_seconds"]
        logger.info("%s: resumed at step %d of %d", self.name, self.step, self.config.steps)
        return True

    def _set_generator(self, state: torch.Tensor, step: int) -> None:
        """Continue the draws; from another kind of device they cannot be, so they start anew from seed and step."""
        if state.numel() == self.generator.get_state().numel():
            self.generator.set_state(state)
        else:
            self.generator.manual_seed(self.seed + step)
            logger.info("%s: the checkpoint is of another kind of device; other draws from here on", self.name)

    def _train_step(self) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(self.step)
        loss = self.loss_fn(self.generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.parameters)
        self.step += 1
        return loss.detach()

    def _log(self, loss: float, steps_per_s: float) -> None:
        eta_min = (self.config.steps - self.step) / max(steps_per_s, 1e-9) / 60
        samples_per_s = steps_per_s * self.config.batch_size
        logger.info(
            "%s %6d/%d  loss %.4f  lr %.1e  %.1f samples/s  eta %.0f min",
            self.name, self.step, self.config.steps, loss, self.config.lr_at(self.step), samples_per_s, eta_min,
        )  # fmt: skip
        record = {"step": self.step, "loss": loss, "samples_per_s": samples_per_s, "train_seconds": self.train_seconds}
        with (self.run_dir / f"{self.name}.log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
