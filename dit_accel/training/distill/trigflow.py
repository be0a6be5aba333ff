"""A flow-matching network as a TrigFlow network, exactly and without training.

SANA-Sprint (Chen et al. 2025, arXiv 2503.09641), §3.1. TrigFlow (Lu & Song 2024) writes y_t = cos t x_0 + sin t eps
for t in [0, pi/2] and predicts F = dy/dt = cos t eps - sin t x_0. Here latents are measured in units of sigma_d, as
the network sees them: the paper's x_t / sigma_d is our y. Then y / (cos t + sin t) is the flow's latent at the time
s = sin t / (sin t + cos t).
"""

import math

import torch

from dit_accel.training.distill.backbone import per_sample
from dit_accel.training.distill.jvp import Field

HALF_PI = math.pi / 2


def flow_time(t: torch.Tensor) -> torch.Tensor:
    """The flow's time in [0, 1] of an angle in [0, pi/2]."""
    return t.sin() / (t.sin() + t.cos())


def angle(s: torch.Tensor) -> torch.Tensor:
    """The angle of a flow's time; the inverse of :func:`flow_time`."""
    return torch.atan2(s, 1 - s)


def to_trig(velocity: Field) -> Field:
    """TrigFlow's F from a flow's velocity field.

    Args:
        velocity: v(x, s), of the flow's latents and times in [0, 1].

    Returns:
        F(y, t), of TrigFlow's latents and angles; differentiable in both where ``velocity`` is.
    """

    def field(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        s = flow_time(t)
        scale = t.sin() + t.cos()  # 1 / sqrt(s^2 + (1 - s)^2)
        x = y / per_sample(scale, y)
        v = velocity(x, s)
        found: torch.Tensor = per_sample((1 - 2 * s) * scale, y) * x + v / per_sample(scale, y)
        return found

    return field


def data_estimate(y: torch.Tensor, t: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """The consistency function f(y, t) = cos t y - sin t F; the identity at t = 0."""
    return per_sample(t.cos(), y) * y - per_sample(t.sin(), y) * field


def noised(data: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """y_t."""
    return per_sample(t.cos(), data) * data + per_sample(t.sin(), data) * noise


def draw_angles(
    count: int, generator: torch.Generator, *, mean: float, std: float, sigma_data: float = 0.5
) -> torch.Tensor:
    """Angles arctan(e^tau / sigma_d), tau normal, float32 [B] on the CPU."""
    tau = mean + std * torch.randn(count, generator=generator)
    return torch.atan(tau.exp() / sigma_data)
