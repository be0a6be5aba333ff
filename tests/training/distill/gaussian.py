"""A teacher whose flow is known in closed form: data are normal, so velocities and students are formulas."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from dit_accel.training.distill.backbone import per_sample
from dit_accel.training.distill.guidance import Guidance
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import AdapterConfig, Roles
from dit_accel.training.distill.trajectories import Trajectories

SHAPE = (2, 2, 2)
MEAN, STD = 0.4, 0.7

Formula = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def deviation(t: torch.Tensor) -> torch.Tensor:
    """Standard deviation of x_t."""
    return ((1 - t).square() * STD**2 + t.square()).sqrt()


def data_of(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Where the flow takes x_t: the consistency function."""
    s = per_sample(t, x)
    return MEAN + STD * (x - (1 - s) * MEAN) / deviation(s)


def point_of(data: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Where the flow that ends in the data was at t."""
    s = per_sample(t, data)
    return (1 - s) * MEAN + deviation(s) * (data - MEAN) / STD


def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[eps - x_0 | x_t]."""
    s = per_sample(t, x)
    slope = (s - (1 - s) * STD**2) / deviation(s).square()
    return -MEAN + slope * (x - (1 - s) * MEAN)


def mean_velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """(x_t - x_0) / t: what a perfect student predicts."""
    return (x - data_of(x, t)) / per_sample(t, x).clamp_min(1e-4)


class Net(nn.Module):
    """A formula, off by what a small network says; ``scale`` 0 makes the formula exact."""

    def __init__(self, formula: Formula, scale: float = 0.0) -> None:
        super().__init__()
        self.formula, self.scale = formula, scale
        self.first, self.last = nn.Linear(9, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        found = self.formula(x, t)
        hidden = self.first(torch.cat([x.flatten(1), t[:, None]], dim=1)).tanh()
        return found + self.scale * self.last(hidden).view_as(x)


class GaussianBackbone:
    """What objectives ask of a ``Backbone``."""

    latent_shape = SHAPE
    kind = SimpleNamespace(guidance_embedded=True)
    device = torch.device("cpu")

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser

    def sigmas(self, steps: int) -> torch.Tensor:
        return torch.linspace(1, 0, steps + 1)

    def velocity(self, network: nn.Module, x: Any, t: Any, condition: Any, guidance: Any, empty: Any = None) -> Any:
        return network(x, t)


def setting(
    *,
    students: Formula = velocity,
    scale: float = 0.0,
    critic: bool = False,
    batch_size: int = 64,
    iterations: int = 1,
) -> Setting:
    """The closed teacher; a student (and a critic) that starts as a formula of its own."""
    torch.manual_seed(0)
    teacher = Net(velocity)
    trained = ("student", "critic") if critic else ("student",)
    roles = Roles(teacher, trained, AdapterConfig(rank=0))
    roles._copies["student"].formula, roles._copies["student"].scale = students, scale
    return Setting(
        backbone=GaussianBackbone(teacher),  # type: ignore[arg-type]
        roles=roles,
        trajectories=trajectories(),
        batch_size=batch_size,
        guidance=Guidance(1.0),
        iterations=iterations,
    )


def trajectories(count: int = 256, steps: int = 8) -> Trajectories:
    """Exact ones."""
    noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    sigmas = torch.linspace(1, 0, steps + 1)
    data = data_of(noise, torch.ones(count))
    points = torch.stack([point_of(data, sigma.expand(count)) for sigma in sigmas], dim=1)
    return Trajectories(sigmas=sigmas, parts=[points], rows=torch.zeros(count, dtype=torch.long), text={}, empty={})


def draws(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
