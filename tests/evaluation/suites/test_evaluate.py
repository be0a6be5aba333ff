"""The engine on tiny pipelines: equal numbers after a kill, damage named and mended, nothing drawn twice."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sample_pictures import pictures
from tiny_text import tiny_text_pipeline
from tiny_videos import tiny_video_pipeline

from dit_accel import accelerate_pipeline, is_accelerated
from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.distances import set_distances
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.networks import FeatureNetwork, LoadedNetwork
from dit_accel.evaluation.reports.report import Report
from dit_accel.evaluation.suites import score
from dit_accel.evaluation.suites.image_files import Preparation, read_image, to_tensor
from dit_accel.evaluation.suites.prompt_files import Item, PromptSet
from dit_accel.evaluation.suites.protocols import find_suite
from dit_accel.evaluation.suites.request import Request
from dit_accel.evaluation.suites.run import evaluate
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.pipelines.media import to_pil

WORDS = ("a red apple", "an owl", "a fish", "a green owl", "a red fish", "an apple", "a green fish")
STEPS = GenerationSettings(num_inference_steps=4)


class Means(torch.nn.Module):
    """Features that are cheap: means of the quarters' channels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(()))
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


class Brightness:
    """A judge that likes it bright, and does not know what an owl is."""

    name, unit, model = "brightness", "mean", "no model"

    def unknown(self, texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(text for text in texts if "owl" in text)

    def scores(self, images: torch.Tensor, texts: Sequence[str]) -> tuple[float, ...]:
        return tuple(images.mean(dim=(1, 2, 3)).tolist())


FACTS = FeatureNetwork(
    name="means",
    frechet_name="FD-Means",
    kernel_name="KD-Means",
    dim=12,
    resize="none",
    crop="none",
    build=lambda path: (Means(), "0" * 64),
)


@pytest.fixture(autouse=True)
def no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "available_perceptual", lambda: ())


@pytest.fixture
def network() -> LoadedNetwork:
    return LoadedNetwork(facts=FACTS, module=Means(), weights_sha256="0" * 64)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Six real images of two categories, one of them cut short."""
    folder = tmp_path / "real"
    for number, image in enumerate(pictures(6, px=48, seed=7)):
        path = folder / ("fruit" if number < 5 else "birds") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil(image).save(path)
    broken = folder / "fruit" / "0.png"
    broken.write_bytes(broken.read_bytes()[:40])
    return folder


def prompts(words: Sequence[str] = WORDS) -> PromptSet:
    items = [
        Item(name=f"{number:06}", prompt=word, categories=("birds" if "owl" in word else "fruit",))
        for number, word in enumerate(words)
    ]
    return PromptSet(source="words", items=tuple(items))


def request(suite: str = "mjhq", **more: Any) -> Request:
    common: dict[str, Any] = {"plans": {"plain": None, "fast": "fast"}, "settings": STEPS, "batch_size": 2}
    common |= {"judges": (Brightness(),), "preparation": Preparation()}
    return Request(suite=find_suite(suite), **{"prompts": prompts(), "model": "tiny", **common, **more})


def run(asked: Request, folder: Path, **more: Any) -> Report:
    report = evaluate(asked, folder, **{"pipe": tiny_text_pipeline(), **more})
    assert report is not None and Report.load(folder) == report
    return report


def numbers(report: Report) -> dict[str, Any]:
    """Everything but when and where."""
    return report.model_dump(mode="json", exclude={"created_utc", "environment", "command"})


def test_the_numbers_are_those_of_the_pictures(tmp_path: Path, real: Path, network: LoadedNetwork) -> None:
    report = run(request(reference=real, network=network), tmp_path / "out")
    pipe = tiny_text_pipeline()
    made = generate(pipe, WORDS, range(len(WORDS)), STEPS, batch_size=2)
    files = [tmp_path / "out" / "images" / "plain" / f"{number:06}.png" for number in range(len(WORDS))]
    read = to_tensor([read_image(path) for path in files])
    assert torch.equal(read, (made * 255).round() / 255)

    plain, fast = report.variants
    assert (plain.kind, fast.kind, plain.times, fast.times) == ("plain", "plan", None, None)
    assert fast.effects is not None and fast.effects.did_something
    assert plain.quality is not None and fast.quality is not None
    (judged,) = plain.quality.alignment
    wanted = [float(image.mean()) for image, word in zip(read, WORDS, strict=True) if "owl" not in word]
    assert judged.scores.per_image == pytest.approx(wanted) and judged.scores.n == 5
    truth = torch.stack([to_tensor([read_image(real / "fruit" / f"{k}.png")])[0] for k in range(1, 5)])
    truth = torch.cat([to_tensor([read_image(real / "birds" / "5.png")]), truth])
    own = [network.module(images * 2 - 1) for images in (truth, read)]
    expected = set_distances(network, *own, reference="r")
    assert [d.value for d in plain.quality.distances] == pytest.approx([d.value for d in expected], rel=1e-4)
    assert fast.quality.distances[0].value != plain.quality.distances[0].value
    fruit = plain.quality.categories["fruit"]
    assert fruit.distances[0].n_real == 4 and fruit.distances[0].n_generated == 5
    assert "'fruit'" in fruit.distances[0].reference and fruit.alignment[0].scores.n == 5
    assert plain.quality.categories["birds"].distances == () and plain.quality.categories["birds"].alignment == ()

    found = report.evaluation
    assert found is not None and found.num_reference == 5
    assert [(s.where, s.why.split(" (")[0]) for s in found.skipped] == [("real/fruit/0.png", "not a readable image")]
    notes = " ".join(report.notes)
    assert "1 prompts or images could not be used" in notes and "no distance for categories" in notes
    assert "can make nothing of 2 captions" in notes and "biased upwards" in notes and "8-bit PNG" in notes
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert report.settings.repeats == 0 and report.settings.num_inference_steps == 4


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 5, 9, 12, 16])
def test_killed_and_gone_on_with(tmp_path: Path, real: Path, network: LoadedNetwork, after: int) -> None:
    whole = run(request(reference=real, network=network), tmp_path / "whole")
    calls = 0

    def kill(phase: str, done: int, total: int) -> None:
        nonlocal calls
        calls += done > 0
        if calls == after:
            raise Killed

    with pytest.raises(Killed):
        run(request(reference=real, network=network), tmp_path / "parts", on_progress=kill)
    assert not (tmp_path / "parts" / "report.json").exists()
    assert numbers(run(request(reference=real, network=network), tmp_path / "parts")) == numbers(whole)
    for path in (tmp_path / "whole" / "images").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "parts" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_nothing_is_done_twice(tmp_path: Path, real: Path, network: LoadedNetwork) -> None:
    asked = request(reference=real, network=network)
    first = run(asked, tmp_path / "out")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.png")}
    calls = network.module.calls  # type: ignore[union-attr]
    assert numbers(run(asked, tmp_path / "out")) == numbers(first)
    run(replace(asked, judges=(), preparation=Preparation(size_px=16)), tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.png")} == files
    assert network.module.calls > calls  # type: ignore[union-attr]  # features of another size are others
    for bad, words in [
        ({"seed": 3}, "prompts and seeds"),
        ({"settings": GenerationSettings(num_inference_steps=5)}, "settings"),
        ({"plans": {"plain": None, "fast": "turbo"}}, "plan 'fast'"),
    ]:
        with pytest.raises(ConfigError, match=words):
            run(replace(asked, **bad), tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.png")} == files


def test_a_damaged_picture_of_ours_is_drawn_again_and_named(
    tmp_path: Path, real: Path, network: LoadedNetwork
) -> None:
    asked = request(reference=real, network=network)
    first = run(asked, tmp_path / "out")
    broken = tmp_path / "out" / "images" / "fast" / "000003.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:50])
    lost = tmp_path / "out" / "images" / "plain" / "000006.png"
    lost.unlink()
    for variant in ("plain", "fast"):
        for kind in (tmp_path / "out" / "progress" / variant).iterdir():
            if kind.is_dir() and kind.name != "drawn":
                shutil.rmtree(kind)
    again = run(asked, tmp_path / "out")
    assert broken.read_bytes() == good and lost.is_file()
    assert again.evaluation is not None and again.evaluation.redrawn == ("fast/000003",)
    assert numbers(again)["variants"] == numbers(first)["variants"]


def test_folders_of_images_made_elsewhere(tmp_path: Path, real: Path, network: LoadedNetwork) -> None:
    elsewhere = {"one": tmp_path / "one", "two": tmp_path / "two"}
    for seed, folder in enumerate(elsewhere.values()):
        folder.mkdir()
        for number, image in enumerate(pictures(7, px=24 + 8 * seed, seed=seed)):
            to_pil(image).save(folder / f"{number:06}.png")
    Image.new("RGB", (9, 5)).save(tmp_path / "one" / "000006.png")  # another size is no harm
    (tmp_path / "one" / "000001.png").write_bytes(b"no picture")
    (tmp_path / "two" / "000004.png").unlink()
    asked = request(plans={}, images=elsewhere, reference=real, network=network)
    report = run(asked, tmp_path / "out", pipe=None)
    assert report.num_images == 5 and [variant.kind for variant in report.variants] == ["images", "images"]
    assert report.evaluation is not None
    assert {s.where for s in report.evaluation.skipped} == {"000001", "000004", "real/fruit/0.png"}
    assert all(v.quality is not None and v.quality.distances[0].n_generated == 5 for v in report.variants)
    assert [sample.prompt for sample in report.samples] == [WORDS[k] for k in (0, 2, 3, 5, 6)]
    to_pil(pictures(1)[0]).save(tmp_path / "one" / "000001.png")  # mended: in again
    assert run(asked, tmp_path / "out", pipe=None).num_images == 6
    for number in range(7):
        (tmp_path / "two" / f"{number:06}.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="no picture could be used; the first: 000000: not a readable image"):
        run(asked, tmp_path / "again", pipe=None)


def test_fidelity_to_the_plain_run(tmp_path: Path) -> None:
    report = run(request("fidelity", judges=()), tmp_path / "out")
    read = {
        name: to_tensor([read_image(tmp_path / "out" / "images" / name / f"{k:06}.png") for k in range(len(WORDS))])
        for name in ("plain", "fast")
    }
    wanted = fidelity(read["fast"], read["plain"])
    found = report.variant("fast").fidelity
    assert found is not None and found.psnr_db.per_image == pytest.approx(wanted.psnr_db)
    assert found.ssim.per_image == pytest.approx(wanted.ssim)
    assert report.variant("plain").fidelity is None and report.variant("fast").quality is None


def test_videos(tmp_path: Path, network: LoadedNetwork) -> None:
    items = tuple(replace(item, motion=("left", "same")) for item in prompts(WORDS[:2]).items)
    settings = GenerationSettings(num_inference_steps=3, num_frames=5, height=32, width=32)
    asked = request("vbench", prompts=PromptSet(source="w", items=items), settings=settings, batch_size=1, copies=2)
    asked = replace(asked, network=network)
    report = run(asked, tmp_path / "out", pipe=tiny_video_pipeline("wan"))
    assert report.num_images == 4 and report.settings.num_frames == 5
    names = sorted(path.name for path in (tmp_path / "out" / "images" / "plain").iterdir())
    assert names == ["000000-0", "000000-1", "000001-0", "000001-1"]
    quality = report.variant("plain").quality
    assert quality is not None and quality.video is not None and quality.distances == ()
    read = [read_image(tmp_path / f"out/images/plain/000000-0/{k:04}.png") for k in range(5)]
    frames = to_tensor(read)
    assert quality.video.temporal_flickering.per_image[0] == pytest.approx(1 - float(frames.diff(dim=0).abs().mean()))
    consistency = score.frame_consistency(network.module(frames * 2 - 1))
    assert quality.video.frame_consistency is not None and quality.video.consistency_network == "means"
    assert quality.video.frame_consistency.per_image[0] == pytest.approx(consistency)
    assert quality.video.motion_right is not None and quality.video.motion_right.n == 4
    assert quality.alignment[0].scores.per_image[0] == pytest.approx(float(frames.mean()), rel=1e-4)
    assert set(quality.categories) == {"fruit", "birds"} and "frames" in quality.alignment[0].model
    assert (tmp_path / "out" / "sheet.webp").is_file()
    # Frames that are lost are found out and drawn again.
    (tmp_path / "out" / "images" / "plain" / "000000-1" / "0002.png").write_bytes(b"")
    shutil.rmtree(tmp_path / "out" / "progress" / "plain" / score.judge_key(Brightness()))
    again = run(asked, tmp_path / "out", pipe=tiny_video_pipeline("wan"))
    assert numbers(again)["variants"] == numbers(report)["variants"]
    assert again.evaluation is not None and again.evaluation.redrawn == ("plain/000000-1",)


def test_frame_consistency_in_closed_form() -> None:
    still = torch.ones(4, 3)
    assert score.frame_consistency(still) == pytest.approx(1)
    x, y = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    # to the first 0, 1; to the one before 0, 0
    assert score.frame_consistency(torch.stack([x, y, x])) == pytest.approx((0 + 0 + 1 + 0) / 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plans": {}}, "nothing to evaluate"),
        ({"reference": None}, "--reference FOLDER"),
        ({"reference": Path("nowhere")}, "no folder of images"),
        ({"network": None, "judges": ()}, "nothing left to measure"),
        ({"num": 3}, "a distance takes 4 images"),
        ({"prompts": prompts(("an owl",)), "network": None}, "brightness can judge none of the prompts"),
        ({"images": {"plain": Path(".")}}, "the same name"),
    ],
)
def test_refused_before_anything_is_drawn(
    tmp_path: Path, real: Path, network: LoadedNetwork, changes: dict[str, Any], words: str
) -> None:
    asked = replace(request(reference=real, network=network), **changes)
    with pytest.raises(ConfigError, match=words):
        run(asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refused_pipelines_and_suites(tmp_path: Path, real: Path, network: LoadedNetwork) -> None:
    asked = request(reference=real, network=network)
    fast = accelerate_pipeline(tiny_text_pipeline(), "fast")
    with pytest.raises(ConfigError, match="accelerated already"):
        run(asked, tmp_path / "out", pipe=fast)
    assert is_accelerated(fast)
    with pytest.raises(ConfigError, match="'mjhq' is for images, and WanPipeline makes video"):
        run(asked, tmp_path / "out", pipe=tiny_video_pipeline("wan"))
    with pytest.raises(ConfigError, match="'vbench' is for videos"):
        run(request("vbench"), tmp_path / "out")
    with pytest.raises(ConfigError, match="give a preset"):
        run(request("fidelity", plans={"plain": None}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_few_real_images_that_can_be_read(tmp_path: Path, real: Path, network: LoadedNetwork) -> None:
    for number in (1, 2):
        (real / "fruit" / f"{number}.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="has 3 readable images; a distance takes 4"):
        run(request(reference=real, network=network), tmp_path / "out")
