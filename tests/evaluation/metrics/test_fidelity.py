"""PSNR and SSIM against known values and against their definition, and each moves the right way."""

import itertools
import math
import sys

import pytest
import torch
from sample_pictures import blurred, noisy, pictures

from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.evaluation.metrics.fidelity import PSNR_CAP_DB, fidelity, require_metrics


def test_equal_images_have_the_highest_scores() -> None:
    scores = fidelity(pictures(), pictures())
    assert scores.psnr_db == (PSNR_CAP_DB,) * 3
    assert scores.ssim == pytest.approx((1.0,) * 3)


def test_psnr_of_a_known_difference() -> None:
    reference = torch.full((2, 3, 16, 16), 0.5)
    images = reference.clone()
    images[0] += 0.1
    images[1] += 0.01
    assert fidelity(images, reference).psnr_db == pytest.approx((20.0, 40.0), abs=1e-4)


def test_psnr_is_its_definition_image_by_image() -> None:
    reference = pictures()
    images = noisy(reference, 0.05)
    images[2] = noisy(reference, 0.2)[2]
    expected = [-10 * math.log10(((a - b).double() ** 2).mean()) for a, b in zip(images, reference, strict=True)]
    assert fidelity(images, reference).psnr_db == pytest.approx(expected, abs=1e-4)


def test_ssim_agrees_with_torchmetrics_class_api() -> None:
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    reference = pictures()
    images = noisy(reference, 0.1)
    whole = StructuralSimilarityIndexMeasure(data_range=1.0)(images.double(), reference.double())
    assert sum(fidelity(images, reference).ssim) / 3 == pytest.approx(float(whole), abs=1e-6)


@pytest.mark.parametrize("metric", ["psnr_db", "ssim"])
@pytest.mark.parametrize(
    "degrade",
    [
        pytest.param([lambda x, s=s: noisy(x, s) for s in (0.02, 0.05, 0.1, 0.2)], id="noise"),
        pytest.param([lambda x, w=w: blurred(x, w) for w in (3, 5, 9, 15)], id="blur"),
    ],
)
def test_worse_images_score_lower(metric: str, degrade: list) -> None:
    reference = pictures()
    scores = [getattr(fidelity(worsen(reference), reference), metric) for worsen in degrade]
    for better, worse in itertools.pairwise(scores):
        assert all(b > w for b, w in zip(better, worse, strict=True))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 16, 17), "differ in shape"),
        (torch.zeros(3, 16, 16), r"\[B, 3, H, W\]"),
        (torch.full((1, 3, 16, 16), 1.5), r"\[0, 1\]"),
        (torch.full((1, 3, 16, 16), float("nan")), "not finite"),
    ],
)
def test_bad_images_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fidelity(images, torch.zeros(1, 3, 16, 16))


def test_a_video_scores_the_mean_of_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = pictures(count=6)
    images = noisy(reference, 0.1)
    images[4] = reference[4]  # one frame is equal, and counts with the cap
    by_frame = fidelity(images, reference)
    assert by_frame.psnr_db[4] == PSNR_CAP_DB
    monkeypatch.setattr("dit_accel.evaluation.metrics.fidelity.IMAGES_AT_ONCE", 4)  # cuts a video in two
    by_video = fidelity(images.unflatten(0, (2, 3)), reference.unflatten(0, (2, 3)))
    for metric in ("psnr_db", "ssim"):
        values = getattr(by_frame, metric)
        assert getattr(by_video, metric) == pytest.approx((sum(values[:3]) / 3, sum(values[3:]) / 3))


def test_videos_also_have_scores_over_time_and_images_have_none() -> None:
    videos = pictures(count=8).unflatten(0, (2, 4))
    scores = fidelity(noisy(videos, 0.1), videos)
    assert scores.temporal_error is not None and min(scores.temporal_error) > 0.05
    assert scores.flicker_ratio is not None and len(scores.flicker_ratio) == 2
    still = fidelity(pictures(), pictures())
    assert still.temporal_error is None and still.flicker_ratio is None


def test_psnr_agrees_with_torchmetrics_class_api() -> None:
    from torchmetrics.image import PeakSignalNoiseRatio

    reference = pictures()
    images = noisy(reference, 0.1)
    metric = PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
    assert sum(fidelity(images, reference).psnr_db) / 3 == pytest.approx(float(metric(images, reference)), abs=1e-4)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 11"):
        fidelity(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_missing_torchmetrics_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torchmetrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingDependencyError, match=r"dit-accel\[bench\]"):
        require_metrics()
