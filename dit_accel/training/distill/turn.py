"""One turn of a training step: whose parameters, by which optimiser, and what its losses were."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dit_accel.training.distill.workers import Workers


@dataclass(slots=True)
class Turn:
    """What one turn steps.

    Attributes:
        parameters: Of a role or of the modules that have a turn of their own.
        lr: Learning rate at its full height.
        optimizer: Over these parameters.
    """

    parameters: list[nn.Parameter]
    lr: float
    optimizer: torch.optim.Optimizer
    _losses: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> "Turn":
        """A turn with AdamW."""
        return cls(parameters, lr, torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay))

    def take(self, loss: Tensor, lr_frac: float, grad_clip: float, workers: Workers) -> str | None:
        """Step once, at so much of the learning rate; returns what went wrong, and nothing was stepped then."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_frac
        # Of what this turn does not step no gradient is wanted: a loss of the student may pass through the heads.
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.contiguous()
        mean = workers.average(self.parameters, loss)
        norm = nn.utils.clip_grad_norm_(self.parameters, grad_clip).item()
        if not (math.isfinite(mean) and math.isfinite(norm)):
            return f"is {mean:.3g} and its gradient norm {norm:.3g}"
        self.optimizer.step()
        self._losses.append(mean)
        return None

    def forget(self) -> float | None:
        """The mean loss since this was last asked; ``None``: there was no step."""
        losses, self._losses = self._losses, []
        return sum(losses) / len(losses) if losses else None
