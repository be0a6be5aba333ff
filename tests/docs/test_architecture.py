"""The page is the map: its table is the one that is enforced, and all of its code runs."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "tests" / "packaging"))

from floors import FLOORS  # noqa: E402
from source_tree import run_python  # noqa: E402

BLOCKS = re.findall(r"^```python(?: file=(\S+))?\n(.*?)^```", PAGE, re.M | re.S)
FILES = {name: code for name, code in BLOCKS if name}
SNIPPETS = [code for name, code in BLOCKS if not name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    return tmp_path


def _run(folder: Path, code: str) -> str:
    return run_python(code, cwd=folder, PYTHONPATH=f"{folder}:{ROOT}", PYTHONWARNINGS="ignore")


def test_the_table_is_the_one_that_is_enforced() -> None:
    table = PAGE.split("<!-- floors:begin -->")[1].split("<!-- floors:end -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]
    found = {row[0].strip("`"): tuple(row[2].split(", ")) if row[2] else () for row in rows}
    assert found == {name: ("all",) if below == ("*",) else below for name, below in FLOORS.items()}
    assert all(row[1] for row in rows)


def test_every_file_that_the_page_names_is_there() -> None:
    for path in re.findall(r"`((?:dit_accel|tests)/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path


def test_the_pass_of_the_page(folder: Path) -> None:
    names = "from dit_accel import GeneratorSpec, StaticCacheConfig\n"
    (snippet,) = (code for code in SNIPPETS if "RoundWeightsConfig" in code)
    printed = _run(folder, names + snippet)
    assert "round_weights: weights rounded: 9" in printed and "static_cache: scheduled module calls saved" in printed


def test_the_pass_of_the_page_from_a_package_of_its_own(folder: Path) -> None:
    """A plan file that names it loads, for the package declares it."""
    (declaration,) = re.findall(r"^```toml\n\[project\.entry-points\.\"(\S+)\"\]\n(.*?)^```", PAGE, re.M | re.S)
    facts = folder / "round_weights-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: round-weights\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{declaration[0]}]\n{declaration[1].replace(chr(34), '')}")
    plan = {"format": "dit-accel/plan", "version": 2, "name": "mine", "passes": [{"type": "round_weights", "bits": 3}]}
    (folder / "plan.json").write_text(json.dumps(plan))
    code = """
from dit_accel import AccelerationPlan
(config,) = AccelerationPlan.from_pretrained("plan.json").passes
print(type(config).__module__, config.bits)
"""
    assert _run(folder, code) == "round_weights 3"
    typo = """
from dit_accel.plan.config import config_class
try:
    config_class("round_weight")
except Exception as error:
    print(error)
"""
    assert "Did you mean 'round_weights'?" in _run(folder, typo)


def test_the_family_of_the_page(folder: Path) -> None:
    code = """
import torch
from toy_family import ToyTransformer
from diffusers import FlowMatchEulerDiscreteScheduler
from dit_accel import accelerate_pipeline, remove_acceleration, summary
from dit_accel.families import resolve_family
from dit_accel.families.check import check_layout
torch.manual_seed(0)
model, scheduler = ToyTransformer().eval(), FlowMatchEulerDiscreteScheduler()
family = resolve_family(model)
print(check_layout(model, family.bind(model), family.sample_inputs(model, height_px=64, width_px=64)))
text = torch.randn(1, 5, 8)
def run():
    latents = torch.ones(1, 4, 8, 8)
    scheduler.set_timesteps(6)
    with torch.no_grad():
        for t in scheduler.timesteps:
            latents = scheduler.step(model(latents, t.view(1), text)[0], t, latents)[0]
    return latents
plain = run()
accelerate_pipeline(model, "lossless", scheduler=scheduler, strict=True)
print(torch.equal(run(), plain))
accelerate_pipeline(model, "balanced", scheduler=scheduler, strict=True)
print(torch.equal(run(), plain), summary(model).denoisers[0].last_run.actual_reuse > 0)
remove_acceleration(model)
print(torch.equal(run(), plain))
"""
    assert _run(folder, code).splitlines() == ["()", "True", "False True", "True"]


def test_the_metric_of_the_page(folder: Path) -> None:
    (snippet,) = (code for code in SNIPPETS if "Redness" in code)
    low, high = json.loads(_run(folder, snippet).replace("(", "[").replace(")", "]"))
    assert 0.8 < low < high < 1.2
