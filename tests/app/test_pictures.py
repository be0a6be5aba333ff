"""Kept pictures, views made from them, and the comparison grid, on a tiny pipeline."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_text import tiny_text_pipeline

from dit_accel.app.device import BusyError, Device
from dit_accel.app.grid import comparison_grid
from dit_accel.app.library import Library
from dit_accel.app.pictures import Kept, difference, frames_of, looping, plan_digest, prune, still
from dit_accel.app.places import Places
from dit_accel.app.plans import shipped_folder
from dit_accel.app.points import Front, FrontPoint, Shown
from dit_accel.app.views import Explorer, settings_of
from dit_accel.plan.certificate import Measured

PLAIN = FrontPoint(key="plain", label="plain", kind="plain", num_steps=3)
SHOWN = (Shown(prompt="a cat", seed=0, psnr_db=20.0, place="worst 5 %"), Shown(prompt="a dog", seed=1))
FEWER = FrontPoint(
    key="fewer/2", label="plain, 2 steps", kind="fewer_steps", num_steps=2, ratio=1.5, ratio_ci95=(1.4, 1.6), n=2,
    errors={"psnr_db": Measured(mean=30.0, ci95=(29.0, 31.0), worst5=20.0)}, shown=SHOWN,
)  # fmt: skip
FAST = FrontPoint(key="ours/fast", label="fast", kind="ours", num_steps=3, preset="fast", shown=SHOWN, ratio=1.6)
FRONT = Front(model="tiny", points=(PLAIN, FAST, FEWER), plain_s=0.1, machine="a machine", num_steps=3)


@pytest.fixture
def explorer(tmp_path: Path) -> Explorer:
    device = Device(places=Places(root=tmp_path, output=tmp_path))
    device._pipes["tiny"] = tiny_text_pipeline()
    return Explorer(Library(()), device, Kept(tmp_path / "app" / "pictures"))


def test_a_picture_is_drawn_once(explorer: Explorer) -> None:
    wanted = [(point, SHOWN[0]) for point in FRONT.points]
    assert explorer.missing(FRONT, wanted) > 0
    first = [picture for _, picture in explorer.draw_all(FRONT, wanted, "me")]
    assert explorer.missing(FRONT, wanted) == 0
    explorer.device._pipes.clear()
    explorer.device.others = lambda: "a search"  # what is kept needs no device
    again = [picture for _, picture in explorer.draw_all(FRONT, wanted, "me")]
    assert [a.tobytes() for a in first if a] == [a.tobytes() for a in again if a]
    with pytest.raises(BusyError):
        list(explorer.draw_all(FRONT, [(PLAIN, SHOWN[1])], "me"))


def test_a_picture_of_another_guidance_is_another_one(explorer: Explorer) -> None:
    """The page asks for it by the front, which says what the runs of its reports were asked for."""
    front, wanted = replace(FRONT, asked={"guidance_scale": 1.0}), [(PLAIN, SHOWN[0])]
    list(explorer.draw_all(FRONT, wanted, "me"))
    assert explorer.missing(front, wanted) > 0
    assert explorer.file(FRONT, *wanted[0]) is not None and explorer.file(front, *wanted[0]) is None


def test_what_a_picture_depends_on_is_in_its_name(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    plans = shipped_folder() / "emoji-flux"
    fast = replace(FAST, folder=plans / "fast")
    front = replace(FRONT, asked={"guidance_scale": 4.5})

    def name(
        model: str = "tiny", point: FrontPoint = fast, prompt: str = "a cat", seed: int = 0, steps: int = 3,
        asked: Front = front, device: str = "cpu", dtype: str = "float32",
    ) -> Path:  # fmt: skip
        return kept.path(model, point, prompt, seed, settings_of(asked, steps), (device, dtype))

    names = {
        name(),
        name(seed=1),
        name(prompt="a dog"),
        name(steps=4),
        name(model="other"),
        name(point=replace(fast, folder=plans / "turbo")),
        name(asked=FRONT),
        name(asked=replace(FRONT, asked={"guidance_scale": 1.0})),
        name(asked=replace(FRONT, asked={"guidance_scale": 4.5, "height": 32})),
        name(device="cuda"),
        name(dtype="bfloat16"),
    }
    assert len(names) == 11 and name() in names
    assert plan_digest(fast) == plan_digest(replace(fast, words=("certified since",)))


def test_videos_loop_and_have_a_difference(tmp_path: Path) -> None:
    video = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    kept = Kept(tmp_path)
    kept.keep(tmp_path / "one.webp", video, fps=8)
    frames = frames_of(tmp_path / "one.webp")
    assert len(frames) == 5 and still(tmp_path / "one.webp").size == (256, 256)
    assert all(frame.getextrema() == ((0, 0),) * 3 for frame in difference(frames, frames))
    path = looping(difference(frames, frames[::-1]), tmp_path / "apart.webp", 8)
    with Image.open(path) as file:
        assert file.n_frames == 5 and file.info["loop"] == 0 and file.size == (256, 256)


def test_passing_pictures_are_pruned(tmp_path: Path) -> None:
    for number in range(4):
        looping([Image.new("RGB", (8, 8))], tmp_path / f"{number}.webp", 8)
        os.utime(tmp_path / f"{number}.webp", (number, number))
    prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.webp", "3.webp"]


def test_gradio_serves_a_looping_picture_as_it_is(tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    frames = [Image.new("RGB", (64, 64), (50 * k, 0, 0)) for k in range(4)]
    path = looping(frames, tmp_path / "loop.webp", 8)
    served = gradio.Image(format="webp", type="filepath").postprocess(path)
    with Image.open(served.path) as file:
        assert file.n_frames == 4


def test_the_grid_has_a_cell_for_every_pair(explorer: Explorer) -> None:
    with Image.open(comparison_grid(explorer, FRONT, "psnr_db", "me")) as sheet:
        columns, rows = len(SHOWN), len(FRONT.points)
        assert sheet.width == 250 + columns * 200 and sheet.height == 34 + rows * 200 + 30
        cells = [
            sheet.crop((250 + 200 * c, 34 + 200 * r, 442 + 200 * c, 226 + 200 * r))
            for r in range(rows)
            for c in range(columns)
        ]
    assert all(max(high - low for low, high in cell.getextrema()) > 0 for cell in cells)
    assert cells[0].tobytes() != cells[-2].tobytes()
