"""A training step on another device asks the host for nothing: on a GPU every such question is a wait.

Checked on the meta device, whose tensors hold no numbers, so that no GPU is needed. PixArt is left out: run without
``torch.compile``, T5 looks at its mask. It shares all that is tested here with Stable Diffusion.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import SMALL, small_data
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dit_accel.embedded.flux_pipeline import FluxPipeline
from dit_accel.training.denoiser import LatentData, denoiser_loop
from dit_accel.training.guidance import guidance_loop
from dit_accel.training.kinds import KINDS
from dit_accel.training.kinds.flux_kind import image_ids
from dit_accel.training.loop import TrainLoop
from dit_accel.training.pretrain import train_embedded
from dit_accel.training.stage import RunOptions
from dit_accel.training.vae import build_vae, vae_loop

META = torch.device("meta")
CpuGenerator = torch.Generator
MakeLoop = Callable[..., TrainLoop]


class MetaGenerator(CpuGenerator):
    """Claims to be on the meta device, which never asks it for a number."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return META


class Transfers(TorchDispatchMode):
    """Lists the operations that move data between devices or wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        copies = "copy" in func.name() and len({x.device.type for x in tensors}) > 1
        if copies or "_local_scalar_dense" in func.name():
            self.found.append(func.name())
        return out


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "Generator", lambda device=None: MetaGenerator())
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())


def transfers(loop: TrainLoop) -> list[str]:
    """Transfers of the second step; the first may fill caches."""
    loop.loss_fn(loop.generator)
    with Transfers() as seen:
        assert loop.loss_fn(loop.generator).device == META
    return seen.found


def test_the_watch_sees_a_transfer() -> None:
    with Transfers() as seen:
        torch.ones(3).to(META)
    assert seen.found


DENOISERS = pytest.mark.parametrize(
    ("kind", "make_loop"), [("sd", denoiser_loop), ("flux", denoiser_loop), ("flux", guidance_loop)]
)


@DENOISERS
def test_denoiser_steps_stay_on_the_device(kind: str, make_loop: MakeLoop, on_meta: None, tmp_path: Path) -> None:
    assert transfers(small_loop(kind, make_loop, META, tmp_path)) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@DENOISERS
def test_whole_steps_never_wait_for_a_gpu(kind: str, make_loop: MakeLoop, tmp_path: Path) -> None:
    loop = small_loop(kind, make_loop, torch.device("cuda"), tmp_path)
    loop._train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop._train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", SMALL)
def test_training_on_a_gpu_goes_on_with_the_same_draws(kind: str, tmp_path: Path) -> None:
    for name, limits in (("whole", [None]), ("cut", [0.0, 0.0, None])):
        for max_minutes in limits:
            options = RunOptions(
                run_dir=tmp_path / name, device=torch.device("cuda"), compile_modules=False, max_minutes=max_minutes
            )
            train_embedded(SMALL[kind], small_data(kind), options)
    whole, cut = (torch.load(tmp_path / name / "vae.ckpt.pt", weights_only=True) for name in ("whole", "cut"))
    assert whole["step"] == cut["step"] == 3
    assert torch.equal(whole["generator"], cut["generator"])
    for mine, theirs in zip(whole["ema"]["shadow_params"], cut["ema"]["shadow_params"], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


def small_loop(kind: str, make_loop: MakeLoop, device: torch.device, run_dir: Path) -> TrainLoop:
    recipe, parts = SMALL[kind], KINDS[kind]
    tokenizers = parts.build_tokenizers(["a red apple", "an owl"])
    text = {
        name: torch.zeros(2, ids.shape[1], dtype=torch.int64)
        for name, ids in parts.tokenize(tokenizers, ["a red apple"]).items()
    }
    with device:
        modules = parts.build_text_encoders(tokenizers, recipe.text_encoders)
        modules[parts.denoiser_name] = parts.build_denoiser(recipe.denoiser)
    examples = LatentData(
        mean=torch.zeros(2, 4, 4, 4),
        std=torch.zeros(2, 4, 4, 4),
        text=text,
        image=torch.zeros(2, dtype=torch.int64),
        weight=torch.ones(2),
        empty={name: ids[:1] for name, ids in text.items()},
    )
    return make_loop(
        parts, modules, examples, recipe.denoiser_loop, caption_drop=0.1, run_dir=run_dir, seed=0,
        dtype=torch.float32, compile_modules=False,
    )  # fmt: skip


def test_autoencoder_steps_stay_on_the_device(on_meta: None, tmp_path: Path) -> None:
    recipe = SMALL["pixart"]
    assert recipe.vae_loop is not None
    with META:
        vae = build_vae(image_size=16, **recipe.vae)
    images = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
    loop = vae_loop(
        vae, images, recipe.vae_loop, run_dir=tmp_path, seed=0, device=META, dtype=torch.float32,
        compile_modules=False,
    )  # fmt: skip
    assert transfers(loop) == []


def test_image_ids_are_the_pipelines() -> None:
    wanted = FluxPipeline._prepare_latent_image_ids(1, 3, 5, torch.device("cpu"), torch.float32)
    assert torch.equal(image_ids(3, 5, torch.zeros(1)), wanted)
