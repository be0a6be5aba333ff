"""What every objective is given: the roles, the trajectories, and a way to call a role's network."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dit_accel.training.distill.backbone import Backbone, Condition
from dit_accel.training.distill.guidance import Guidance
from dit_accel.training.distill.roles import TEACHER, Roles
from dit_accel.training.distill.trajectories import Trajectories


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The common ground of objectives.

    Attributes:
        backbone: The pipeline.
        roles: Teacher, student, critic.
        trajectories: Of the teacher.
        batch_size: Samples a step.
        guidance: Of the teacher.
        iterations: Training steps in all, for what changes in the course of a training.
        dtype: Autocast type; ``torch.float32`` turns autocast off.
        folded: Whether the student learns the guidance, too; otherwise it is guided as the teacher is.
    """

    backbone: Backbone
    roles: Roles
    trajectories: Trajectories
    batch_size: int
    guidance: Guidance
    iterations: int
    dtype: torch.dtype = torch.float32
    folded: bool = True

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.backbone.device

    def velocity(
        self, role: str, x: torch.Tensor, t: torch.Tensor, text: Condition, *, guided: bool = True, exact: bool = False
    ) -> torch.Tensor:
        """Velocity that a role predicts, float32 of the shape of ``x``.

        A network that takes the guidance scale as an input is told the teacher's, whatever its role. From one that
        does not, the teacher's answer is mixed from two calls, the others' is one call: they have the guidance inside.

        Args:
            role: Who.
            x: Latents [B, ...].
            t: Times in [0, 1], [B].
            text: One row a sample.
            guided: Whether whoever is guided from outside is.
            exact: Without autocast: small differences of outputs drown in half precision.
        """
        mixed = guided and (role == TEACHER or not self.folded)
        scale = self.guidance if mixed or self.backbone.kind.guidance_embedded else Guidance()
        empty = {name: rows.to(x.device) for name, rows in self.trajectories.empty.items()} if mixed else None
        with self.roles.acting(role) as network, contextlib.nullcontext() if exact else self.autocast():
            return self.backbone.velocity(network, x, t, text, scale, empty)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Autocast as configured."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield

    def grown(self, step: int, frac: float) -> float:
        """How far something has grown that is nothing at the start and whole after a share of the training."""
        return min(1.0, (step + 1) / max(frac * self.iterations, 1.0))

    def draw_text(self, generator: torch.Generator) -> Condition:
        """Prompts of a batch."""
        return self.draw_data(generator)[1]

    def draw_data(self, generator: torch.Generator) -> tuple[torch.Tensor, Condition]:
        """Samples of the teacher, the ends of its trajectories, float32 [B, ...], and their text."""
        chosen, text = self.trajectories.draw(self.batch_size, generator)
        data = self.trajectories.at(chosen, -1).to(self.device)
        return data, {name: rows.to(self.device) for name, rows in text.items()}

    def noise(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Fresh noise, float32 [B, ...]."""
        shape = (count, *self.backbone.latent_shape)
        return torch.randn(shape, generator=generator).to(self.device)
