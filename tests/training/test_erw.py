"""ERW: phase 1 trains the first blocks alone, phase 2 begins from them, and what agreement means."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import LOOP, PIXART, SD, small_data

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.training import erw, warmup
from dit_accel.training.erw import ERWConfig, Projector, first_blocks, is_warmed, load_warmed, unit_features
from dit_accel.training.kinds import KINDS
from dit_accel.training.pretrain import train_embedded
from dit_accel.training.progress import is_done
from dit_accel.training.recipes import get_recipe, with_erw
from dit_accel.training.stage import RunOptions, untrained

RECIPE = dataclasses.replace(
    PIXART, erw=ERWConfig(blocks=1, align_block=2, width=8), warmup_loop=dataclasses.replace(LOOP, lr=1e-2)
)


def options(run_dir: Path, **changes: Any) -> RunOptions:
    return RunOptions(
        run_dir=run_dir, device=torch.device("cpu"), dtype=torch.float32, compile_modules=False, **changes
    )


def pooled(images: torch.Tensor) -> torch.Tensor:
    """A frozen network for tests: colours of patches."""
    return torch.nn.functional.avg_pool2d(images, 4)


@pytest.fixture
def small_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "alexnet_encoder", lambda: pooled)


def trained(path: Path) -> dict[str, torch.Tensor]:
    modules: dict[str, Any] = torch.load(path, weights_only=True)["modules"]
    return modules["transformer"]  # type: ignore[no-any-return]


def test_phase_one_trains_the_first_blocks_alone_and_phase_two_begins_there(
    small_encoder: None, tmp_path: Path
) -> None:
    data = small_data("pixart")
    train_embedded(RECIPE, data, options(tmp_path), ["vae", "warmup"])
    _, modules = untrained(RECIPE, data, options(tmp_path))
    before = {name: value.clone() for name, value in modules["transformer"].state_dict().items()}
    after = trained(tmp_path / "warmup.ckpt.pt")
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert RECIPE.erw is not None
    assert changed and all(is_warmed(name, RECIPE.erw) for name in changed)
    assert {name.split(".")[0] for name in changed} == {"pos_embed", "adaln_single", "transformer_blocks"}
    assert not any(name.startswith("transformer_blocks.1") for name in changed)
    load_warmed(modules["transformer"], tmp_path)
    now = modules["transformer"].state_dict()
    assert {name for name in before if not torch.equal(before[name], now[name])} == changed

    pipe = train_embedded(RECIPE, data, options(tmp_path))
    assert pipe is not None and is_done(RECIPE, "warmup", tmp_path)
    state = torch.load(tmp_path / "denoiser.ckpt.pt", weights_only=True)
    assert "projector" in state["modules"]
    plain = train_embedded(PIXART, data, options(tmp_path / "plain"))
    assert plain is not None
    assert not torch.equal(plain.transformer.pos_embed.proj.weight, pipe.transformer.pos_embed.proj.weight)


def test_killed_and_resumed_equals_uninterrupted(small_encoder: None, tmp_path: Path) -> None:
    data = small_data("pixart")
    for stage in ("vae", "warmup", "denoiser"):
        train_embedded(RECIPE, data, options(tmp_path / "whole"), [stage])
        for _ in range(4):
            train_embedded(RECIPE, data, options(tmp_path / "cut", max_minutes=0), [stage])
        whole, cut = (
            trained(tmp_path / name / f"{stage}.ckpt.pt") if stage != "vae" else {} for name in ("whole", "cut")
        )
        assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_the_weight_falls_and_with_none_phase_two_is_the_usual_training_from_there(
    small_encoder: None, tmp_path: Path
) -> None:
    config = ERWConfig(weight=0.5, decay_frac=0.25)
    assert [config.weight_at(k) for k in (0, 0.25, 1)] == pytest.approx([0.5, 0.5 / math.e, 0.5 * math.exp(-4)])
    data = small_data("pixart")
    for name, recipe in (
        ("none", dataclasses.replace(RECIPE, erw=ERWConfig(blocks=1, align_block=2, weight=0))),
        ("some", RECIPE),
    ):
        train_embedded(recipe, data, options(tmp_path / name), ["vae", "warmup", "denoiser"])
    none, some = (torch.load(tmp_path / name / "denoiser.ckpt.pt", weights_only=True) for name in ("none", "some"))
    blocks = [key for key in some["modules"]["transformer"] if key.startswith("transformer_blocks.1.ff")]
    changed = [not torch.equal(none["modules"]["transformer"][k], some["modules"]["transformer"][k]) for k in blocks]
    assert any(changed)


def test_agreement_is_the_cosine_and_its_gradient_reaches_the_blocks_below() -> None:
    torch.manual_seed(0)
    denoiser = KINDS["pixart"].build_denoiser(PIXART.denoiser)
    projector = Projector(denoiser, 1, 3, 8)
    inputs = {"timestep": torch.zeros(2, dtype=torch.long), "encoder_hidden_states": torch.randn(2, 4, 16)}
    with first_blocks(denoiser, 1):
        denoiser(torch.randn(2, 4, 4, 4), added_cond_kwargs={"resolution": None, "aspect_ratio": None}, **inputs)
    assert len(denoiser.transformer_blocks) == 2 and projector.seen is not None
    found = torch.nn.functional.normalize(projector.layers(projector.seen), dim=-1).detach()
    assert projector.loss(found).item() == pytest.approx(0, abs=1e-6)
    assert projector.loss(-found).item() == pytest.approx(2, abs=1e-6)
    projector.loss(torch.nn.functional.normalize(torch.randn(2, 4, 3), dim=-1)).backward()
    assert denoiser.transformer_blocks[0].ff.net[2].weight.grad.abs().max() > 0
    assert denoiser.transformer_blocks[1].ff.net[2].weight.grad is None


def test_features_are_centred_and_of_unit_length() -> None:
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = unit_features(pooled, images, (2, 2), batch_size=4)
    assert features.shape == (6, 4, 3)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(6, 4))
    shifted = unit_features(lambda x: pooled(x) + 7, images, (2, 2))
    torch.testing.assert_close(shifted, features, atol=1e-4, rtol=0)
    assert torch.equal(unit_features(pooled, images, (2, 2))[3], features[3]), "whatever the batch"


def test_the_real_network_sees_where_things_are() -> None:
    pytest.importorskip("stlpips_pytorch")
    image = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    image[:, 1:, :32, :32] = 0  # a red quarter
    other = image.flip(-1)
    features = erw.unit_features(erw.alexnet_encoder(), torch.cat([image, other]), (8, 8)).unflatten(1, (8, 8))
    mirrored = (features[0] * features[1].flip(1)).sum(-1).mean()
    in_place = (features[0] * features[1]).sum(-1).mean()
    assert mirrored > in_place + 0.2


def test_bad_recipes_and_lost_files_are_named(small_encoder: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both of 'erw' and 'warmup_loop'"):
        dataclasses.replace(RECIPE, warmup_loop=None)
    with pytest.raises(ConfigError, match="not for 'sd'"):
        dataclasses.replace(SD, erw=ERWConfig(), warmup_loop=LOOP)
    with pytest.raises(ConfigError, match="after block 9: there are 2"):
        Projector(KINDS["pixart"].build_denoiser(PIXART.denoiser), 9, 3, 8)
    with pytest.raises(ConfigError, match="must be positive"):
        ERWConfig(blocks=0)
    data = small_data("pixart")
    train_embedded(RECIPE, data, options(tmp_path), ["vae"])
    with pytest.raises(DitAccelError, match="run the stage 'warmup' first"):
        train_embedded(RECIPE, data, options(tmp_path), ["denoiser"])
    shipped = with_erw(get_recipe("emoji-pixart", "cpu"))
    assert shipped.warmup_loop is not None and shipped.warmup_loop.steps == shipped.denoiser_loop.steps // 6
