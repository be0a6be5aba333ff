"""A trial tells what works from what does not, and the page is what the harness makes of the report."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from breadth.page import page_text
from breadth.standins import offline_stand_ins
from breadth.trial import PRESETS, PresetTrial, Trial, _run_undone, _try_preset, _verdict, marks, no_paths, said
from tiny import tiny_pipeline
from tiny_calls import pixart_call

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "benchmarks" / "results" / "breadth.json"


class _Tiny:
    """A tiny pipeline of our own, called as the harness calls diffusers'."""

    def __init__(self) -> None:
        self.pipe = tiny_pipeline("pixart")
        self.call = {**pixart_call(), "num_inference_steps": 6}

    def run(self) -> Any:
        with torch.no_grad():
            return self.pipe(**self.call, generator=torch.Generator().manual_seed(0))


def test_the_page_is_what_the_harness_makes_of_the_report() -> None:
    text = REPORT.read_text(encoding="utf-8")
    report = json.loads(text)
    assert (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8") == page_text(report)
    assert report["counts"] == {s: [p["status"] for p in report["pipelines"]].count(s) for s in report["counts"]}
    assert sum(report["counts"].values()) == len(report["pipelines"])
    assert not re.search(r"(?<![\w.<:/])/(?:tmp|root|home|work|usr|opt|var)/", text)


def test_a_trial_sees_equality_savings_and_undo() -> None:
    tiny: Any = _Tiny()
    plain = tiny.run()
    before = marks(tiny.pipe)
    trial = Trial(pipeline="Tiny", status="works", deterministic=True)
    for name in PRESETS:
        found = trial.presets[name] = _try_preset(tiny, name, plain, before, True)
        _run_undone(tiny, found, plain, True)
    assert _verdict(trial) == ("works", "")
    assert trial.presets["lossless"].equal and not trial.presets["fast"].equal
    assert 0 < trial.presets["balanced"].saved < trial.presets["fast"].saved < trial.presets["fast"].planned


def test_a_trial_sees_what_is_left_behind() -> None:
    tiny: Any = _Tiny()
    plain = tiny.run()
    before = marks(tiny.pipe)
    tiny.pipe.transformer.left = True
    trial = Trial(pipeline="Tiny", status="works", deterministic=True)
    trial.presets["fast"] = _try_preset(tiny, "fast", plain, before, True)
    assert _verdict(trial) == ("wrong", "fast leaves something behind after undo")


def test_a_refusal_is_no_crash_and_an_error_in_mid_run_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny: Any = _Tiny()
    plain = tiny.run()
    before = marks(tiny.pipe)
    monkeypatch.setattr(tiny, "run", lambda: 1 / 0)
    found = _try_preset(tiny, "fast", plain, before, True)
    assert found.outcome == "crashed" and found.reason.startswith("ZeroDivisionError")
    assert found.undone
    tiny.pipe.register_modules(transformer=None)
    assert _try_preset(tiny, "fast", plain, before, True).outcome == "refused"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "works"),
        ({"saved": 0}, "idle"),
        ({"undone_equal": False}, "wrong"),
        ({"finite_as_plain": False}, "wrong"),
        ({"outcome": "crashed", "reason": "E"}, "crashed"),
        ({"outcome": "refused", "reason": "no"}, "refused"),
    ],
)
def test_verdicts(changes: dict[str, Any], status: str) -> None:
    good = {"equal": True, "finite_as_plain": True, "planned": 9, "saved": 3, "undone": True, "undone_equal": True}
    presets = {name: PresetTrial(**good) for name in PRESETS}
    presets["fast"] = PresetTrial(**{**good, **changes})
    trial = Trial(pipeline="Tiny", status="works", deterministic=True, presets=presets)
    assert _verdict(trial)[0] == status
    presets["lossless"] = PresetTrial(**{**good, "equal": False})
    if status in ("works", "idle", "wrong"):
        assert "lossless is not bit-equal" in _verdict(trial)[1]


def test_no_path_of_the_machine_is_told() -> None:
    assert no_paths("no file at /root/some/where/file.py, see https://x.org/a/b") == (
        "no file at file.py, see https://x.org/a/b"
    )
    try:
        raise ValueError("in '/home/me/model/config.json'")
    except ValueError as error:
        assert said(error).startswith("ValueError: in 'config.json' [test_breadth.py:")


def test_stand_ins_are_equal_when_made_twice_and_spell_any_prompt() -> None:
    from transformers import CLIPTokenizer, T5EncoderModel

    made = []
    for _ in range(2):
        with offline_stand_ins("a red apple\na green apple"):
            encoder = T5EncoderModel.from_pretrained("hf-internal-testing/tiny-random-t5")
            tokenizer = CLIPTokenizer.from_pretrained("hf-internal-testing/tiny-random-clip")
        made.append((encoder, tokenizer))
    (first, words), (second, _) = made
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    ids = words("a red äpple", padding="max_length").input_ids
    assert len(ids) == 77 and len(set(ids)) > 3 and max(ids) < 1000
    assert ids.index(max(ids)) == len([i for i in ids if i != max(ids)])  # the end has the highest id
