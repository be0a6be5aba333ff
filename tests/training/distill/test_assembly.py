"""A-SDM's assembly: what is left of pruned layers, experts that begin as one, and distillation that helps."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_inputs, tiny_model
from tiny_recipes import SD
from torch import nn

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.passes.assembly_module import ExpertConv2d, add_experts, prune, redundant_layers
from dit_accel.training.distill.assembly_loop import assembly_loop, feature_distance, features
from dit_accel.training.kinds import KINDS
from dit_accel.training.loop import LoopConfig


@pytest.mark.parametrize("batch", [1, 3])
def test_equal_experts_are_the_plain_convolution(batch: int) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(batch, 4, 9, 9)
    torch.testing.assert_close(ExpertConv2d(conv)(x), conv(x), atol=1e-5, rtol=1e-5)


def test_experts_are_mixed_sample_by_sample() -> None:
    """The sum of kernels gives what the sum of the experts' outputs would."""
    torch.manual_seed(0)
    experts, x = ExpertConv2d(nn.Conv2d(4, 6, 3, padding=1), experts=3), torch.randn(2, 4, 8, 8)
    assert experts.bias is not None
    for parameter in experts.parameters():
        nn.init.normal_(parameter)
    share = experts.router(x.mean(dim=(2, 3))).softmax(-1)
    outputs = [nn.functional.conv2d(x, experts.weight[e], experts.bias[e], padding=1) for e in range(3)]
    wanted = sum(share[:, e, None, None, None] * outputs[e] for e in range(3))
    torch.testing.assert_close(experts(x), wanted, atol=1e-4, rtol=1e-4)


def test_a_pruned_unet_is_smaller_runs_and_keeps_its_shortcuts() -> None:
    unet: Any = tiny_model("sd")
    inputs = tiny_inputs("sd", unet)
    whole = unet(**inputs)[0]
    names = redundant_layers(unet, 1)
    assert any(name.startswith("down_blocks.0.resnets") for name in names)
    assert any(name.startswith("up_blocks") for name in names)
    pruned = copy.deepcopy(unet)
    shortcut = pruned.get_submodule(
        next(n for n in names if n.startswith("up_blocks") and "resnets" in n)
    ).conv_shortcut
    prune(pruned, names)
    assert any(module is shortcut for module in pruned.modules())
    found = pruned(**inputs)[0]
    assert found.shape == whole.shape and not torch.allclose(found, whole)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in unet.parameters())
    untouched = copy.deepcopy(unet)
    prune(untouched, redundant_layers(unet, 0))
    assert torch.equal(untouched(**inputs)[0], whole)


def test_what_cannot_be_pruned_is_named() -> None:
    unet = tiny_model("sd")
    with pytest.raises(ConfigError, match="only residual blocks and transformers"):
        prune(unet, ("down_blocks.0.downsamplers.0",))
    with pytest.raises(ConfigError, match="'levels' must be 0 to"):
        redundant_layers(unet, 9)
    with pytest.raises(UnsupportedModelError, match="it is no UNet"):
        redundant_layers(tiny_model("flux"), 1)
    with pytest.raises(ConfigError, match="not a convolution"):
        add_experts(unet, ("down_blocks.0",))


def test_features_are_compared_relative_to_the_teachers() -> None:
    b = [torch.randn(2, 3), 100 * torch.randn(2, 3)]
    assert feature_distance(b, b) == 0
    assert feature_distance([2 * each for each in b], b) == pytest.approx(1)


def test_an_assembled_unet_learns_and_is_resumed_exactly(tmp_path: Path) -> None:
    from tiny_recipes import small_data

    from dit_accel.training.denoiser import LatentData
    from dit_accel.training.training_set import training_captions

    kind = KINDS["sd"]
    images = small_data("sd")
    rows = training_captions(SD, images)
    tokenizers = kind.build_tokenizers(rows.texts)
    torch.manual_seed(0)
    modules = kind.build_text_encoders(tokenizers, SD.text_encoders)
    modules["unet"] = kind.build_denoiser({**SD.denoiser, "layers_per_block": 2})
    nn.init.normal_(modules["unet"].conv_out.weight, std=0.1)
    text = kind.tokenize(tokenizers, [*rows.texts, ""])
    latents = torch.randn(len(images.images), 4, 8, 8)
    known = LatentData(
        mean=latents, std=torch.full_like(latents, 0.1), text={k: v[:-1] for k, v in text.items()}, image=rows.image,
        weight=rows.weight, empty={k: v[-1:] for k, v in text.items()},
    )  # fmt: skip

    def made(run_dir: Path, **more: float) -> Any:
        student = copy.deepcopy(modules["unet"]).requires_grad_(True)
        prune(student, redundant_layers(student, 1))
        add_experts(student, ("conv_in",), experts=2)
        config = LoopConfig(steps=12, batch_size=4, lr=3e-3, warmup_steps=1, sample_minutes=0, log_steps=12)
        return assembly_loop(kind, modules, student, known, config, run_dir=run_dir, **more), student

    whole, student = made(tmp_path / "whole")
    generator = torch.Generator().manual_seed(5)
    before = whole.loss_fn(generator).item()
    whole.run()
    assert whole.loss_fn(torch.Generator().manual_seed(5)).item() < before
    first, _ = made(tmp_path / "parts")
    first.run(max_minutes=0)
    second, resumed = made(tmp_path / "parts")
    assert second.load()
    second.run()
    for a, b in zip(student.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    with features(student) as found:
        pass
    assert found == [] and not any(m._forward_hooks for m in student.modules())
    asked: list[torch.Tensor] = []
    noisy, unet = made(tmp_path / "noisy", begin_frac=0.2, end_frac=0.5)
    unet.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[1]))
    noisy.loss_fn(torch.Generator().manual_seed(0))
    assert 500 <= asked[0].min() < 600 and 700 < asked[0].max() < 800, "the times of its own steps, noisiest at 1000"
    with pytest.raises(ConfigError, match="begin_frac < end_frac"):
        made(tmp_path / "none", begin_frac=0.5, end_frac=0.5)
