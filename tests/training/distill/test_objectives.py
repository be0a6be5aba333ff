"""Each objective against closed forms: zero where the student is perfect, the right gradient where it is not."""

import gaussian
import pytest
import torch
from gaussian import draws, mean_velocity, setting, velocity

from dit_accel.errors import ConfigError
from dit_accel.training.distill.heads import hinge_critic, hinge_student
from dit_accel.training.distill.objectives.dmd2 import DMD2, DMD2Config, surrogate
from dit_accel.training.distill.objectives.lcm import LCM, LCMConfig, pseudo_huber
from dit_accel.training.distill.objectives.mdt import MDT, MDTConfig, distil
from dit_accel.training.distill.objectives.perflow import PeRFlow, PeRFlowConfig
from dit_accel.training.distill.objectives.scm import SCM, SCMConfig
from dit_accel.training.distill.trigflow import angle, data_estimate, draw_angles, flow_time, noised, to_trig


def test_perflow_is_zero_for_the_students_that_cross_its_windows() -> None:
    one_window = PeRFlow(setting(students=mean_velocity), PeRFlowConfig(windows=1, start_frac=1.0))
    assert one_window.loss("student", 0, draws()) < 1e-10
    teacher = PeRFlow(setting(), PeRFlowConfig(windows=1, start_frac=1.0))
    assert teacher.loss("student", 0, draws()) > 0.01


def test_perflow_draws_points_on_the_straight_lines_between_window_ends() -> None:
    objective = PeRFlow(setting(), PeRFlowConfig(windows=4, start_frac=0.0))
    x, t, target, _ = objective.example(draws())
    end = (t * 4).floor() / 4  # windows end at 0, 1/4, 1/2, 3/4
    at_end = x - (t - end).view(-1, 1, 1, 1) * target
    data = gaussian.data_of(at_end, end)
    torch.testing.assert_close(gaussian.point_of(data, end), at_end, atol=1e-4, rtol=1e-4)
    # Both ends lie on one trajectory of the teacher.
    at_start = at_end + 0.25 * target
    torch.testing.assert_close(gaussian.data_of(at_start, end + 0.25), data, atol=1e-3, rtol=1e-3)


def test_perflow_wants_windows_that_divide_the_teachers_steps() -> None:
    with pytest.raises(ConfigError, match="3 windows do not divide the teacher's 8"):
        PeRFlow(setting(), PeRFlowConfig(windows=3))


@pytest.mark.parametrize("skip", [1, 8])
def test_lcm_is_zero_for_the_consistency_function_and_not_for_the_teacher(skip: int) -> None:
    perfect = LCM(setting(students=mean_velocity), LCMConfig(skip=skip))
    assert perfect.loss("student", 0, draws()) < 1e-3
    assert LCM(setting(), LCMConfig(skip=skip)).loss("student", 0, draws()) > 10 * perfect.loss("student", 0, draws())


def test_lcm_sends_no_gradient_through_its_target() -> None:
    objective = LCM(setting(scale=0.1), LCMConfig(skip=2, noise_frac=1.0))
    weight = objective.setting.roles.parameters("student")["last.bias"]
    loss = objective.loss("student", 0, draws())
    (found,) = torch.autograd.grad(loss, weight)
    # f = x - t v at t = 1, so the bias moves f by -scale; were the target to move too, this would shrink by 1 - 3/4.
    chosen, _ = objective.setting.trajectories.draw(64, draws())
    x = objective.setting.trajectories.at(chosen, 0)
    later = objective.setting.trajectories.at(chosen, 2)
    with torch.no_grad():
        off = objective.data_estimate(x, torch.ones(64), {}) - objective.data_estimate(
            later, torch.full((64,), 0.75), {}
        )
    expected = -0.1 * (off / (off.square() + 1e-6).sqrt()).flatten(1).sum(0) / off.numel()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_pseudo_huber_is_nought_at_nought_and_linear_far_away() -> None:
    assert pseudo_huber(torch.zeros(3), torch.zeros(3), 0.001) == 0
    assert pseudo_huber(torch.tensor([5.0]), torch.zeros(1), 0.001) == pytest.approx(4.999, abs=1e-4)


def test_dmd2_has_no_gradient_where_the_critic_is_the_teacher() -> None:
    objective = DMD2(setting(critic=True, scale=0.3), DMD2Config(), steps=(1, 2))
    data = torch.randn(64, *gaussian.SHAPE, generator=draws())
    assert objective.gradient(data, {}, draws()).abs().max() == 0


def test_dmd2_points_from_the_critics_estimate_to_the_teachers() -> None:
    objective = DMD2(setting(critic=True), DMD2Config(), steps=(1,))
    critic = objective.setting.roles._copies["critic"]
    critic.formula = lambda x, t: velocity(x, t) - 0.2  # it believes the data to be 0.2 t larger
    data = torch.randn(256, *gaussian.SHAPE, generator=draws())
    gradient = objective.gradient(data, {}, draws())
    assert (gradient > 0).all()  # descending moves the samples down


def test_dmd2s_surrogate_has_the_gradient_it_is_given() -> None:
    data = torch.randn(4, 3, requires_grad=True)
    wanted = torch.randn(4, 3)
    (found,) = torch.autograd.grad(surrogate(data, wanted), data)
    torch.testing.assert_close(found, wanted / 12)


def test_dmd2_simulates_the_students_own_runs() -> None:
    objective = DMD2(setting(critic=True, students=mean_velocity), DMD2Config(), steps=(4,))
    seen = set()
    for seed in range(20):
        x, t = objective.simulate({}, draws(seed))
        assert (t == t[0]).all()
        seen.add(float(t[0]))
        expected = gaussian.deviation(t[0])
        assert abs(float(x.std()) - float(expected)) < 0.12  # a perfect student stays on the marginals
    assert seen == {1.0, 0.75, 0.5, 0.25}


def test_dmd2s_critic_learns_the_velocity_of_samples() -> None:
    objective = DMD2(setting(critic=True), DMD2Config(), steps=(1,))
    data = gaussian.MEAN + gaussian.STD * torch.randn(4096, *gaussian.SHAPE, generator=draws())
    at_best = objective.critic_loss(data, {}, draws())
    critic = objective.setting.roles._copies["critic"]
    critic.formula = lambda x, t: velocity(x, t) + 0.3
    assert (objective.critic_loss(data, {}, draws()) - at_best).item() == pytest.approx(0.09, abs=0.02)


@pytest.mark.parametrize("continuous", [False, True])
def test_mdts_velocity_matching_is_of_the_order_of_delta_at_the_perfect_student(continuous: bool) -> None:
    objective = MDT(setting(students=mean_velocity), MDTConfig(delta=0.001, continuous=continuous, logit_mean=0.0))
    data = torch.randn(64, *gaussian.SHAPE, generator=draws()) * gaussian.STD + gaussian.MEAN
    assert objective.velocity_matching(data, {}, draws()) < 1e-4
    off = MDT(setting(students=lambda x, t: mean_velocity(x, t) + 0.3), MDTConfig(delta=0.001, logit_mean=0.0))
    assert off.velocity_matching(data, {}, draws()) > 0.05


def test_mdts_two_derivatives_agree() -> None:
    x, t = torch.randn(16, *gaussian.SHAPE, generator=draws()), torch.rand(16, generator=draws()) * 0.8 + 0.1
    found = []
    for continuous in (False, True):
        objective = MDT(setting(students=mean_velocity, scale=0.2), MDTConfig(delta=1e-3, continuous=continuous))
        found.append(objective.derivative(x, t, velocity(x, t), {}))
    torch.testing.assert_close(found[0], found[1], atol=0.02, rtol=0.02)


def test_mdts_velocity_distillation_vanishes_at_the_perfect_student() -> None:
    objective = MDT(setting(students=mean_velocity, scale=1e-6), MDTConfig(continuous=True))
    weight = objective.setting.roles.parameters("student")["last.bias"]
    (gradient,) = torch.autograd.grad(objective.velocity_distillation({}, draws()), weight)
    assert (gradient / 1e-6).abs().max() < 0.02


def test_mdt_begins_as_the_teacher_and_grows() -> None:
    """At the start the teacher is the perfect student, whatever its curvature; in the end the mean velocity is."""
    for students, early, late in ((velocity, 0.0, 0.05), (mean_velocity, 0.05, 0.0)):
        objective = MDT(setting(students=students, iterations=10**6), MDTConfig(delta=1e-3, warmup_frac=0.5))
        losses = [objective.loss("student", step, draws()).item() for step in (0, 500_000)]
        for loss, least in zip(losses, (early, late), strict=True):
            assert loss > least if least else loss < 1e-3


def test_mdts_distribution_matching_grows_with_the_derivative() -> None:
    objective = MDT(setting(scale=1.0, iterations=100), MDTConfig(warmup_frac=0.5))
    weight = objective.setting.roles.parameters("student")["last.bias"]

    def gradient(step: int, vd_weight: float) -> torch.Tensor:
        objective.config = MDTConfig(warmup_frac=0.5, vd_weight=vd_weight)
        return torch.autograd.grad(objective.loss("student", step, draws()), weight)[0]

    sizes = [float((gradient(step, 1.0) - gradient(step, 0.0)).norm()) for step in (0, 24, 49, 99)]
    assert sizes[0] < 0.05 * sizes[2] and sizes[1] < 0.7 * sizes[2] and sizes[2] == sizes[3]


def test_mdts_code_form_has_the_gradient_of_the_equation() -> None:
    """-difference d(sample)/dtheta with sample = z - phi, averaged."""
    net, z = torch.nn.Linear(3, 3), torch.randn(5, 3)
    difference = torch.randn(5, 3)
    code = torch.autograd.grad(distil(net(z), difference), list(net.parameters()))
    sample = z - net(z)
    equation = torch.autograd.grad(sample, list(net.parameters()), grad_outputs=-difference / difference.numel())
    for mine, theirs in zip(code, equation, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_transform_to_trigflow_is_exact() -> None:
    """On the closed flow: F = dy/dt, where y_t follows the same data and noise as the flow."""
    t = torch.linspace(0.05, 1.5, 12)
    data = torch.randn(12, *gaussian.SHAPE, generator=draws())
    s = flow_time(t)
    torch.testing.assert_close(angle(s), t)
    x = gaussian.point_of(data, s)
    y = x * (t.sin() + t.cos()).view(-1, 1, 1, 1)
    field = to_trig(velocity)

    def along_flow(angle_: torch.Tensor) -> torch.Tensor:
        return gaussian.point_of(data.double(), flow_time(angle_)) * (angle_.sin() + angle_.cos()).view(-1, 1, 1, 1)

    h = 1e-5
    slope = (along_flow(t.double() + h) - along_flow(t.double() - h)) / (2 * h)
    torch.testing.assert_close(field(y, t), slope.float(), atol=1e-4, rtol=1e-4)


def test_the_consistency_function_is_the_identity_at_nought_and_finds_the_data() -> None:
    y, zero = torch.randn(3, *gaussian.SHAPE), torch.zeros(3)
    assert torch.equal(data_estimate(y, zero, to_trig(velocity)(y, zero)), y)
    t, data = torch.full((3,), 1.2), torch.randn(3, *gaussian.SHAPE)
    x = gaussian.point_of(data, flow_time(t))
    y = x * (t.sin() + t.cos()).view(-1, 1, 1, 1)
    torch.testing.assert_close(data_estimate(y, t, to_trig(mean_velocity)(y, t)), data, atol=1e-4, rtol=1e-4)


def test_scms_tangent_vanishes_at_the_perfect_student() -> None:
    """The consistency function is constant along the flow: g is nought when the warm-up is over."""
    perfect = SCM(setting(students=mean_velocity), SCMConfig(normaliser=1.0))
    t = torch.linspace(0.2, 1.4, 64)
    y = noised(gaussian.MEAN + torch.randn(64, *gaussian.SHAPE), torch.randn(64, *gaussian.SHAPE), t)
    assert perfect.tangent(y, t, {}, step=0)[1].abs().max() < 2e-3
    other = SCM(setting(), SCMConfig(normaliser=1.0))
    assert other.tangent(y, t, {}, step=0)[1].abs().max() > 0.05


def test_scms_tangent_looks_past_a_fast_embedding_of_time() -> None:
    """A student that is perfect but for a ripple of sin(1000 t), as a network has that is told 1000 t."""

    def rippled(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return mean_velocity(x, t) + 0.01 * gaussian.per_sample((1000 * t).sin(), x)

    t = torch.linspace(0.2, 1.4, 64)
    y = noised(gaussian.MEAN + torch.randn(64, *gaussian.SHAPE), torch.randn(64, *gaussian.SHAPE), t)
    sizes = []
    for config in (SCMConfig(), SCMConfig(time_step=0.0)):
        g = SCM(setting(students=rippled), config).tangent(y, t, {}, step=0)[1]
        sizes.append(float(g.square().mean().sqrt()))
    assert sizes[0] < 0.5 * sizes[1], "normalised tangents: noise makes any of them long"


def test_scms_tangent_starts_as_teacher_matching_and_is_shorter_than_one() -> None:
    objective = SCM(setting(students=lambda x, t: velocity(x, t) + 0.5, iterations=10**9), SCMConfig())
    t = torch.linspace(0.2, 1.4, 64)
    y = noised(torch.randn(64, *gaussian.SHAPE), torch.randn(64, *gaussian.SHAPE), t)
    value, g = objective.tangent(y, t, {}, step=0)
    wanted = -(value - to_trig(velocity)(y, t))
    similarity = torch.cosine_similarity(g.flatten(1), wanted.flatten(1))
    assert similarity.min() > 0.9999
    assert g.flatten(1).norm(dim=1).max() < 1


def test_scms_warm_up_is_over_after_its_share_of_the_training() -> None:
    def student(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return velocity(x, t) + 0.5

    long = SCM(setting(students=student, iterations=100), SCMConfig(warmup_frac=0.2))
    none = SCM(setting(students=student, iterations=100), SCMConfig(warmup_frac=0))
    t = torch.linspace(0.2, 1.4, 64)
    y = noised(torch.randn(64, *gaussian.SHAPE), torch.randn(64, *gaussian.SHAPE), t)
    whole = none.tangent(y, t, {}, step=0)[1]
    assert not torch.allclose(long.tangent(y, t, {}, step=9)[1], whole, atol=1e-3)
    for step in (19, 99):
        torch.testing.assert_close(long.tangent(y, t, {}, step=step)[1], whole)


def test_scms_gradient_is_minus_two_g_times_the_weight() -> None:
    objective = SCM(setting(scale=0.3), SCMConfig())
    bias = objective.setting.roles.parameters("student")["last.bias"]
    data = torch.randn(64, *gaussian.SHAPE, generator=draws(7))
    (found,) = torch.autograd.grad(objective.consistency(data, {}, 0, draws()), bias)
    generator = draws()
    t = draw_angles(64, generator, mean=0.2, std=1.6)
    y = noised(data, torch.randn(64, *gaussian.SHAPE, generator=generator), t)
    g = objective.tangent(y, t, {}, 0)[1]
    prior = (1 / t.tan()).clamp(max=20.0) / 0.5
    moved = 0.3 / (t.sin() + t.cos())  # how far the bias moves F
    expected = (-2 * g.flatten(1) / 8 * (prior * moved)[:, None]).mean(0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_hinge_losses() -> None:
    assert hinge_critic(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.0])) == pytest.approx(0.5)
    assert hinge_student(torch.tensor([1.0, 3.0])) == -2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: PeRFlowConfig(windows=0), "windows"),
        (lambda: LCMConfig(skip=0), "skip"),
        (lambda: DMD2Config(critic_updates=0), "critic_updates"),
        (lambda: MDTConfig(delta=0.7), "delta"),
        (lambda: MDTConfig(warmup_frac=2), "warmup_frac"),
        (lambda: SCMConfig(std=0), "std"),
        (lambda: SCMConfig(warmup_frac=2), "warmup_frac"),
        (lambda: SCMConfig(time_step=1.0), "time_step"),
    ],
)
def test_bad_settings_are_named(config: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config()  # type: ignore[operator]
