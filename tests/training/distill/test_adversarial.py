"""LADD's discriminator on a real trunk, and SANA-Sprint's sum."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_flux import PROMPTS, tiny_flux

from dit_accel.errors import UnsupportedModelError
from dit_accel.training.distill.heads import Head, Trunk, VirtualBatchNorm
from dit_accel.training.distill.objectives.ladd import HEADS, LADDConfig
from dit_accel.training.distill.roles import AdapterConfig
from dit_accel.training.distill.run import DistillJob, build_trainer
from dit_accel.training.loop import LoopConfig


@pytest.fixture
def sprint(tmp_path: Path) -> Any:
    job = DistillJob(
        method="sana-sprint", steps=(1,), loop=LoopConfig(steps=2, batch_size=3, lr=1e-3), run_dir=tmp_path,
        trajectories_dir=tmp_path / "t", trajectories=4, teacher_steps=2, adapter=AdapterConfig(rank=2),
        options={"ladd": {"blocks": [0, 1]}},
    )  # fmt: skip
    return build_trainer(tiny_flux(), PROMPTS, job).objective


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_the_students_loss_is_the_sum_of_both(sprint: Any) -> None:
    data, text = sprint.setting.draw_data(generator := draws())
    adversarial = sprint.ladd.adversarial("student", data, text, generator)
    consistency = sprint.scm.consistency(data, text, 5, generator)
    torch.testing.assert_close(sprint.loss("student", 5, draws()), consistency + 0.5 * adversarial)


def test_the_discriminators_gradient_reaches_the_student_and_not_the_teacher(sprint: Any) -> None:
    data, text = sprint.setting.draw_data(draws())
    roles = sprint.setting.roles
    torch.nn.init.normal_(roles.parameters("student")["proj_out.lora_B.weight"], std=0.1)
    loss = sprint.ladd.adversarial("student", data, text, draws())
    gradients = torch.autograd.grad(loss, list(roles.parameters("student").values()), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)
    heads = sprint.ladd.adversarial(HEADS, data, text, draws())
    own = list(roles.parameters("student").values())
    assert all(g is None for g in torch.autograd.grad(heads, own, allow_unused=True, retain_graph=True))
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(heads, [h.norm.weight for h in sprint.ladd.heads]))
    assert not any(p.requires_grad for n, p in sprint.setting.backbone.denoiser.named_parameters() if "lora" not in n)


def test_a_batch_of_one_has_no_other_caption(sprint: Any) -> None:
    """Its own latents with its own caption would be shown as real and as a fake."""
    data, text = sprint.setting.draw_data(draws())
    data, text = data[:1], {name: rows[:1] for name, rows in text.items()}
    found = sprint.ladd.adversarial(HEADS, data, text, draws())
    sprint.ladd.config = LADDConfig(misaligned=False)
    torch.testing.assert_close(found, sprint.ladd.adversarial(HEADS, data, text, draws()))


def test_with_max_time_weighting_of_one_all_students_start_at_noise(sprint: Any) -> None:
    for share in (0.0, 0.5, 1.0):
        sprint.ladd.config = LADDConfig(max_time_frac=share)
        at_noise = (sprint.ladd.student_angles(2000, draws()) == torch.tensor(math.pi / 2)).float().mean()
        assert abs(float(at_noise) - share) < 0.05


def test_a_head_gives_a_logit_a_token_and_is_bounded() -> None:
    """Spectral norms of one and inputs of unit variance: no token can move a logit without bound."""
    torch.manual_seed(0)
    head, tokens = Head(width=6, channels=8), torch.randn(8, 12, 6)
    assert head(tokens).shape == (8, 12)
    assert head(1000 * tokens).abs().max() < 10
    for layer in (head.first, head.middle, head.last):
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2) < 1.1


def test_virtual_batches_do_not_see_each_other() -> None:
    norm, x = VirtualBatchNorm(3), torch.randn(16, 3, 5)
    alone = norm(x[:8])
    torch.testing.assert_close(norm(x)[:8], alone)
    alone = alone.detach()
    assert abs(float(alone.mean())) < 1e-5 and abs(float(alone.var(unbiased=False)) - 1) < 1e-3
    assert norm(torch.randn(5, 3, 5)).shape == (5, 3, 5)  # a batch that eight does not divide


def test_a_trunk_reads_image_tokens_and_leaves_no_hook() -> None:
    denoiser = tiny_flux().transformer
    trunk = Trunk(denoiser)
    assert all(number < 2 for number in trunk.numbers)
    with pytest.raises(ZeroDivisionError), trunk.reading():
        1 / 0  # noqa: B018
    assert not any(module._forward_hooks for module in denoiser.modules())
    with pytest.raises(UnsupportedModelError, match="needs a transformer"):
        Trunk(torch.nn.Linear(2, 2))
