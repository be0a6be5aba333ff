"""ST-LPIPS agrees with its package and moves the right way; LPIPS and ST-LPIPS are never taken for each other."""

import importlib
import itertools
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import blurred, noisy, pictures

from dit_accel.embedded import embedded_path
from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.evaluation.metrics import perceptual, st_lpips
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import MIN_PX, available_perceptual, load_perceptual

installed = pytest.mark.skipif(st_lpips.weights_file() is None, reason="stlpips-pytorch is not installed")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Loaders that have not loaded anything yet."""
    for loader in (perceptual._lpips, perceptual._st_lpips):
        loader.cache_clear()
    yield monkeypatch
    for loader in (perceptual._lpips, perceptual._st_lpips):
        loader.cache_clear()


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The package's own code, with the three modules stubbed that it imports and does not use here."""
    for name, content in {"torchvision": "models", "torchsummary": "summary", "IPython": "embed"}.items():
        stub = ModuleType(name)
        setattr(stub, content, None)
        monkeypatch.setitem(sys.modules, name, stub)
    module = importlib.import_module("stlpips_pytorch.stlpips")
    yield module.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    for name in [name for name in sys.modules if name.startswith("stlpips_pytorch")]:
        monkeypatch.delitem(sys.modules, name)


@installed
@pytest.mark.parametrize("px", [(64, 64), (33, 47), (21, 21)])
def test_st_lpips_is_the_packages_own(theirs: torch.nn.Module, px: tuple[int, int]) -> None:
    left, right = torch.rand(2, 2, 3, *px, generator=torch.Generator().manual_seed(0))
    ours = load_perceptual("st_lpips")(left, right)
    torch.testing.assert_close(ours, theirs(left, right, normalize=True).flatten(), atol=1e-6, rtol=1e-5)


@installed
def test_equal_is_zero_and_a_shift_hardly_counts() -> None:
    images = drawings()
    distance = load_perceptual("st_lpips")
    assert distance(images, images).tolist() == [0, 0, 0]
    shift, noise = distance(images.roll(1, dims=-1), images), distance(noisy(images, 0.05), images)
    assert bool((shift > 0).all() and (shift < 0.5 * noise).all())
    assert bool((distance(noisy(images, 0.3), images) > 50 * shift).all())


@installed
@pytest.mark.parametrize(
    "degrade",
    [
        pytest.param([lambda x, s=s: noisy(x, s) for s in (0.02, 0.05, 0.1, 0.3)], id="noise"),
        pytest.param([lambda x, w=w: blurred(x, w) for w in (3, 7, 15)], id="blur"),
    ],
)
def test_worse_images_are_further_away(degrade: list) -> None:
    reference = pictures(px=64)
    distance = load_perceptual("st_lpips")
    for better, worse in itertools.pairwise(distance(worsen(reference), reference) for worsen in degrade):
        assert bool((worse > better).all())


@installed
def test_fidelity_measures_it_frame_by_frame() -> None:
    reference = pictures(count=6)
    images = noisy(reference, 0.1)
    by_frame = fidelity(images, reference, perceptual=["st_lpips"]).st_lpips
    by_video = fidelity(images.unflatten(0, (2, 3)), reference.unflatten(0, (2, 3)), perceptual=["st_lpips"]).st_lpips
    assert by_frame is not None
    assert by_video == pytest.approx((sum(by_frame[:3]) / 3, sum(by_frame[3:]) / 3))
    assert fidelity(images, reference, perceptual=["st_lpips"]).lpips is None
    small = fidelity(pictures(px=20), pictures(px=20), perceptual=["st_lpips"])
    assert small.st_lpips is None  # its network has no place left; PSNR and SSIM are there
    px = MIN_PX["st_lpips"]
    assert fidelity(images[..., :px, :px], reference[..., :px, :px], perceptual=["st_lpips"]).st_lpips is not None


@installed
def test_another_weights_file_is_refused(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"other weights")
    fresh.setattr(st_lpips, "weights_file", lambda: tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"install stlpips-pytorch==0\.0\.2"):
        load_perceptual("st_lpips")


def test_missing_weights_name_the_extra(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(st_lpips, "find_spec", lambda name: None)
    assert "st_lpips" not in available_perceptual()
    with pytest.raises(MissingDependencyError, match=r"stlpips-pytorch.*dit-accel\[eval\]"):
        load_perceptual("st_lpips")


def test_missing_alexnet_says_which_file_goes_where(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.setattr(perceptual, "find_spec", lambda name: SimpleNamespace())
    fresh.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "lpips" not in available_perceptual()
    with pytest.raises(MissingDependencyError, match=r"checkpoints.alexnet-owt-7be5be79\.pth"):
        load_perceptual("lpips")


def test_lpips_is_torchmetrics_on_torchvisions_alexnet(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an AlexNet of made-up weights in torchvision's place: ours is torchmetrics' functional, image by image."""
    import torchmetrics.functional.image.lpips as functional
    import torchmetrics.image.lpip as modular

    stub = ModuleType("torchvision")
    stub.models = SimpleNamespace(alexnet=made_up_alexnet, AlexNet_Weights=SimpleNamespace(DEFAULT="any"))
    fresh.setitem(sys.modules, "torchvision", stub)
    for module in (functional, modular):
        fresh.setattr(module, "_TORCHVISION_AVAILABLE", True)
    fresh.setattr(perceptual, "find_spec", lambda name: SimpleNamespace())
    fresh.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / perceptual.ALEXNET_FILE).touch()
    assert "lpips" in available_perceptual()

    reference = pictures(px=64)
    images = noisy(reference, 0.1)
    expected = functional.learned_perceptual_image_patch_similarity(
        images, reference, reduction="none", normalize=True
    )
    scores = fidelity(images, reference, perceptual=["lpips"])
    assert scores.lpips == pytest.approx(expected.tolist(), rel=1e-4)
    assert scores.st_lpips is None
    single = fidelity(images[:1], reference[:1], perceptual=["lpips"]).lpips
    assert single == pytest.approx(expected[:1].tolist(), rel=1e-4)
    px = MIN_PX["lpips"]
    assert fidelity(images[..., :px, :px], reference[..., :px, :px], perceptual=["lpips"]).lpips is not None


def drawings() -> torch.Tensor:
    """Three emoji of the sheet that ships with emoji-pixart, whose cells have 64 px, enlarged twice, and a gap."""
    sheet = Image.open(embedded_path("emoji-pixart") / "samples.png").convert("RGB")
    cells = [sheet.resize((sheet.width // 2, sheet.height // 2)).crop((x, 2, x + 64, 66)) for x in (2, 68, 134)]
    return torch.stack([torch.from_numpy(np.array(cell)).permute(2, 0, 1) for cell in cells]).float() / 255


def made_up_alexnet(weights: object) -> SimpleNamespace:
    torch.manual_seed(0)
    nn = torch.nn
    layers = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)]
    layers += [nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)]
    return SimpleNamespace(features=nn.Sequential(*layers))


def test_unknown_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'lpips'"):
        load_perceptual("lpip")
