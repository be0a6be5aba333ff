"""Roles on one network: who acts, what is trained, and that the teacher stays what it was."""

import pytest
import torch
from tiny_flux import PROMPTS, tiny_flux

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.training.distill.backbone import Backbone
from dit_accel.training.distill.guidance import Guidance
from dit_accel.training.distill.jvp import along, without_checkpointing
from dit_accel.training.distill.roles import AdapterConfig, Roles


def call(backbone: Backbone, roles: Roles, role: str) -> torch.Tensor:
    x = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    with roles.acting(role) as network:
        return backbone.velocity(network, x, torch.tensor([0.1, 0.5, 1.0]), backbone.encode(PROMPTS), Guidance(3.5))


@pytest.mark.parametrize("rank", [4, 0])
def test_the_teacher_is_never_written_to(rank: int) -> None:
    backbone = Backbone.of(tiny_flux())
    before = {name: p.clone() for name, p in backbone.denoiser.named_parameters()}
    plain = backbone.velocity(
        backbone.denoiser,
        torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.1, 0.5, 1.0]),
        backbone.encode(PROMPTS),
        Guidance(3.5),
    )
    roles = Roles(backbone.denoiser, ("student", "critic"), AdapterConfig(rank=rank))
    assert torch.equal(call(backbone, roles, "student"), plain)  # it starts as the teacher
    optimizer = torch.optim.SGD(roles.parameters("student").values(), lr=1.0)
    call(backbone, roles, "student").square().mean().backward()
    optimizer.step()
    assert not torch.equal(call(backbone, roles, "student"), plain)
    assert torch.equal(call(backbone, roles, "critic"), plain)
    assert torch.equal(call(backbone, roles, "teacher"), plain)
    roles.remove()
    assert list(before) == [name for name, _ in backbone.denoiser.named_parameters()]
    assert all(torch.equal(before[name], p) for name, p in backbone.denoiser.named_parameters())


def test_a_switch_of_roles_does_not_cost_the_student_its_gradient() -> None:
    """PEFT's own set_adapter turns requires_grad off, and with it gradients of a loss that waits for its backward."""
    backbone = Backbone.of(tiny_flux())
    roles = Roles(backbone.denoiser, ("student", "critic"), AdapterConfig(rank=2))
    loss = call(backbone, roles, "student").square().mean()
    call(backbone, roles, "critic")
    call(backbone, roles, "teacher")
    gradients = torch.autograd.grad(loss, list(roles.parameters("student").values()), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)
    others = torch.autograd.grad(
        call(backbone, roles, "student").mean(), list(roles.parameters("critic").values()), allow_unused=True
    )
    assert all(g is None for g in others)


def test_whoever_acted_before_does_again_after_an_exception() -> None:
    backbone = Backbone.of(tiny_flux())
    roles = Roles(backbone.denoiser, ("student", "critic"), AdapterConfig(rank=2))
    layer = backbone.denoiser.proj_out
    with roles.acting("student"):
        with pytest.raises(ZeroDivisionError), roles.acting("critic"):
            assert layer.active_adapters == ["critic"]
            1 / 0  # noqa: B018
        assert layer.active_adapters == ["student"] and not layer.disable_adapters
    assert layer.disable_adapters


def test_weights_of_a_role_come_back_and_others_are_refused() -> None:
    backbone = Backbone.of(tiny_flux())
    roles = Roles(backbone.denoiser, ("student",), AdapterConfig(rank=2))
    weights = {name: torch.full_like(p, 0.01) for name, p in roles.parameters("student").items()}
    roles.load("student", weights)
    assert all(torch.equal(p, weights[name]) for name, p in roles.parameters("student").items())
    name = next(iter(weights))
    with pytest.raises(ConfigError, match="has shape"):
        roles.load("student", {**weights, name: torch.zeros(1, 1)})
    with pytest.raises(ConfigError, match="1 names differ"):
        roles.load("student", {k: v for k, v in weights.items() if k != name})


@pytest.mark.parametrize(
    ("trained", "config", "words"),
    [
        (("teacher",), AdapterConfig(rank=2), "none is 'teacher'"),
        (("student", "student"), AdapterConfig(rank=2), "must be different"),
        (("student",), AdapterConfig(rank=2, targets=("no_such",)), "no linear layer"),
    ],
)
def test_roles_that_cannot_be(trained: tuple[str, ...], config: AdapterConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Roles(Backbone.of(tiny_flux()).denoiser, trained, config)


def test_a_teacher_with_adapters_is_refused() -> None:
    denoiser = Backbone.of(tiny_flux()).denoiser
    Roles(denoiser, ("student",), AdapterConfig(rank=2))
    with pytest.raises(ConfigError, match="has adapters already"):
        Roles(denoiser, ("student",), AdapterConfig(rank=2))


def test_a_pipeline_that_predicts_noise_is_refused() -> None:
    from tiny import tiny_pipeline

    with pytest.raises(UnsupportedModelError, match="flow-matching pipeline"):
        Backbone.of(tiny_pipeline("sd"))


def test_the_forward_derivative_agrees_with_differences() -> None:
    """Through diffusers' attention, whose fused kernels have none."""
    backbone = Backbone.of(tiny_flux())
    roles = Roles(backbone.denoiser, ("student",), AdapterConfig(rank=2))
    text = backbone.encode(PROMPTS)
    generator = torch.Generator().manual_seed(0)
    x, dx = (torch.randn(3, *backbone.latent_shape, generator=generator) for _ in range(2))
    t, dt = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.1, 0.2, 0.1])
    with roles.acting("student") as network:

        def field(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            return backbone.velocity(network, y, s, text, Guidance(3.5))

        value, exact = along(field, x, t, dx, dt, mode="forward")
        also, near = along(field, x, t, dx, dt, mode="difference", step=1e-3)
        torch.testing.assert_close(value, field(x, t))
    assert not exact.requires_grad
    torch.testing.assert_close(value, also)
    assert (exact - near).norm() < 0.01 * exact.norm()


def test_a_wide_step_in_time_looks_past_a_fast_embedding() -> None:
    """Of x t^2 + 0.02 sin(1000 t) it finds the change of the first term, which exact differentiation buries."""
    asked = []

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(t)
        return x * t.square()[:, None] + 0.02 * (1000 * t).sin()[:, None]

    x, t = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 0.1, 0.5, 0.77, 1.0])
    dx, dt = torch.ones_like(x), torch.tensor([1.0, 0.5, 1.0, 2.0, 1.0])
    smooth = dx * t.square()[:, None] + x * (2 * t * dt)[:, None]
    value, wide = along(field, x, t, dx, dt, time_step=0.05)
    assert all(times.min() >= 0 and times.max() <= 1 for times in asked)
    torch.testing.assert_close(value, field(x, t))
    assert (wide - smooth).abs().max() < 1.5 and (along(field, x, t, dx, dt)[1] - smooth).abs().max() > 15
    also = along(field, x, t, dx, dt, time_step=0.05, mode="difference")[1]
    torch.testing.assert_close(also, wide, atol=1e-2, rtol=1e-2)


class NoForward(torch.autograd.Function):
    """An operation like a kernel of one's own."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.sin()


def test_an_operation_without_a_forward_derivative() -> None:
    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return NoForward.apply(x) * t.view(-1, 1)

    x, t = torch.randn(4, 3), torch.rand(4)
    with pytest.raises(UnsupportedModelError, match="mode='difference'"):
        along(field, x, t, torch.ones_like(x), torch.zeros(4), mode="forward")
    derivative = along(field, x, t, torch.ones_like(x), torch.zeros(4))[1]
    torch.testing.assert_close(derivative, x.cos() * t.view(-1, 1), atol=1e-3, rtol=1e-3)


def test_checkpointing_is_off_for_the_time_being() -> None:
    denoiser = Backbone.of(tiny_flux()).denoiser
    denoiser.enable_gradient_checkpointing()
    assert denoiser.gradient_checkpointing
    with without_checkpointing(denoiser):
        assert not any(getattr(m, "gradient_checkpointing", False) for m in denoiser.modules())
    assert denoiser.gradient_checkpointing


def test_the_two_conventions_of_guidance() -> None:
    cond, uncond = torch.randn(5), torch.randn(5)
    for scale in (0.0, 1.0, 3.5, 8.0):
        found = Guidance(scale).mix(cond, uncond)
        torch.testing.assert_close(found, uncond + scale * (cond - uncond))
        torch.testing.assert_close(found, cond + Guidance(scale).weight * (cond - uncond))
        assert Guidance.from_weight(Guidance(scale).weight) == Guidance(scale)
    assert Guidance().is_none and Guidance.from_weight(0.0).is_none
    with pytest.raises(ConfigError, match="0 or more"):
        Guidance(-1)


def test_memory_that_ran_out_is_not_taken_for_a_missing_derivative() -> None:
    calls = []

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        raise torch.OutOfMemoryError("no memory")

    point = torch.zeros(1, 2)
    with pytest.raises(torch.OutOfMemoryError):
        along(field, point, torch.zeros(1), point, torch.zeros(1))
    assert len(calls) == 1
