"""Recordings on disk, a few samples at a time, regressions in parts: the same numbers in less memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from quick_calibration import PROMPTS, SETTINGS, quick
from tiny import tiny_call, tiny_pipeline

from dit_accel.calibration import judging
from dit_accel.calibration.choose import gram_of
from dit_accel.calibration.cohorts import in_cohorts
from dit_accel.calibration.fit import fit
from dit_accel.calibration.gains import measure_gains
from dit_accel.calibration.judging import drawing
from dit_accel.calibration.kept_recording import load, recorded
from dit_accel.calibration.recording import Recording, record
from dit_accel.calibration.regression import products
from dit_accel.calibration.store import Store
from dit_accel.errors import ConfigError
from dit_accel.families.targets import find_targets

pytestmark = pytest.mark.usefixtures("without_networks")


def mapped_from(tensor: torch.Tensor) -> str:
    """The file whose pages hold a tensor; empty: none."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *rest = line.split()
        first, last = (int(each, 16) for each in span.split("-"))
        if first <= address < last:
            return rest[-1] if len(rest) == 5 else ""
    return ""


def kept(pipe: Any, folder: Path, *, outputs: bool = True) -> Recording:
    draw = drawing(pipe, PROMPTS, SETTINGS)

    def run(recording: Recording) -> None:
        record(pipe, draw, 0, 2, recording)

    return recorded(folder, {"device": "cpu"}, run, gram_of, outputs=outputs)


def test_a_recording_on_disk_is_the_one_in_memory_and_takes_no_ram(pipe: Any, tmp_path: Path) -> None:
    draw = drawing(pipe, PROMPTS, SETTINGS)
    plain = record(pipe, draw, 0, 2)
    found = kept(pipe, tmp_path / "recording")
    for one, other in ((plain.latents, found.latents), (plain.outputs, found.outputs)):
        assert len(one) == len(other) and all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert torch.equal(plain.pictures, found.pictures) and (gram_of(plain) == found.gram).all()
    assert (plain.denoisers, plain.levels, plain.conditions) == (found.denoisers, found.levels, found.conditions)
    assert measure_gains(pipe, draw, plain, 2) == measure_gains(pipe, draw, found, 2)
    fits = [fit(pipe, draw, each, (0, 2), 0, 2) for each in (plain, found)]
    assert fits[0].config == fits[1].config and torch.equal(fits[0].pictures, fits[1].pictures)
    if Path("/proc/self/maps").exists():
        for tensor in (*found.latents, *found.outputs):
            assert mapped_from(tensor).startswith(str(tmp_path))


def test_a_recording_is_drawn_once(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "recording"
    first = kept(pipe, folder)
    first.forget_outputs()
    assert not list(folder.glob("outputs-*"))
    with monkeypatch.context() as patch:
        patch.setattr(judging, "generate", None)
        again = kept(pipe, folder, outputs=False)
    assert all(torch.equal(*pair) for pair in zip(first.latents, again.latents, strict=True))
    assert (first.gram == again.gram).all() and again.conditions == first.conditions
    assert kept(pipe, folder).outputs  # they are needed again: drawn anew
    assert load(folder, {"device": "cuda"}) is None
    (folder / "latents-0002.safetensors").write_bytes(b"torn")
    assert load(folder, {"device": "cpu"}) is None
    assert kept(pipe, folder).num_steps == SETTINGS.num_inference_steps


def test_a_disk_that_cannot_take_it_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "recording").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot write '.*latents-0000\.safetensors'.*Make room"):
        Store(tmp_path / "recording").keep("latents-0000", torch.zeros(3))


@pytest.mark.parametrize("name", ["pixart", "flux", "sd", "sdxl", "wan22"])
def test_cohorts_change_nothing_but_rounding_and_leave_no_trace(name: str) -> None:
    pipe = tiny_pipeline(name).to(torch.float64)
    many = "num_videos_per_prompt" if name.startswith("wan") else "num_images_per_prompt"

    def drawn() -> torch.Tensor:
        call = tiny_call(name, num_inference_steps=4, **{many: 3})
        call["generator"] = torch.Generator().manual_seed(0)
        for key, value in call.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                call[key] = value.double()
        out = pipe(**call)[0]
        return out if isinstance(out, torch.Tensor) else torch.stack([torch.as_tensor(each) for each in out])

    whole = drawn()
    before = [set(vars(target.denoiser)) for target in find_targets(pipe)]
    rows: list[int] = []
    for target in find_targets(pipe):
        plain = type(target.denoiser).forward

        def forward(self: Any, *args: Any, plain: Any = plain, **kwargs: Any) -> Any:
            rows.append(len(args[0] if args else next(iter(kwargs.values()))))
            return plain(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(target.denoiser), "forward", forward)
            with in_cohorts(pipe, 2):
                parted = drawn()
    assert rows and max(rows) <= 2
    torch.testing.assert_close(parted, whole, rtol=1e-5, atol=1e-5)
    for target, attributes in zip(find_targets(pipe), before, strict=True):
        assert set(vars(target.denoiser)) == attributes


def test_a_calibration_in_cohorts_finds_nearly_the_same(pipe: Any, tmp_path: Path) -> None:
    pytest.importorskip("deap")
    whole = quick(pipe, tmp_path / "whole", generations=0)
    parted = quick(pipe, tmp_path / "parted", generations=0, cohort=1)
    assert [point.computed for point in parted.points] == [point.computed for point in whole.points]
    for one, other in zip(parted.points, whole.points, strict=True):
        assert one.psnr_db == pytest.approx(other.psnr_db, abs=0.05)
    with pytest.raises(ConfigError, match="differs in: cohort"):
        quick(pipe, tmp_path / "whole", generations=0, cohort=1)


@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_products_prompt_by_prompt_are_those_of_all(at_once: int) -> None:
    generator = torch.Generator().manual_seed(0)
    *regressors, target = (torch.randn(5, 3, 4, generator=generator) for _ in range(4))
    gram, right = products(regressors, target, at_once)
    stacked = torch.stack([each.flatten(1).double() for each in regressors], 1)
    torch.testing.assert_close(torch.from_numpy(gram), stacked @ stacked.transpose(1, 2))
    torch.testing.assert_close(torch.from_numpy(right), (stacked @ target.flatten(1).double()[..., None])[..., 0])
