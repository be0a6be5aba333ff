"""What is shown of a front: the plot and the heat map as SVG, the table, and code that runs as pasted."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from dit_accel.app import show
from dit_accel.app.axes import Axis, short
from dit_accel.app.device import Device
from dit_accel.app.dial import dial
from dit_accel.app.fronts import front_of_model
from dit_accel.app.heatmap import heatmap
from dit_accel.app.library import Library
from dit_accel.app.pictures import Kept, frames_of
from dit_accel.app.places import Places
from dit_accel.app.points import Front, FrontPoint
from dit_accel.app.scatter import Mark, scatter
from dit_accel.app.views import Explorer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def flux() -> Front:
    return front_of_model("emoji-flux", [])


def marks(svg: str) -> dict[str, ElementTree.Element]:
    tree = ElementTree.fromstring(svg)
    return {each.attrib["data-key"]: each for each in tree.iter() if "data-key" in each.attrib}


def test_the_plot_has_every_point_with_its_intervals(flux: Front) -> None:
    found = marks(show.plot(flux, "st_lpips", rivals=False, chosen="ours/fast"))
    assert set(found) == {point.key for point in flux.points if point.has("st_lpips")}
    assert [key for key, mark in found.items() if "chosen" in mark.attrib["class"]] == ["ours/fast"]
    bars = [each for each in found["ours/fast"].iter("line") if each.attrib["class"] == "bar"]
    assert len(bars) == 2
    assert all(mark.attrib["tabindex"] == "0" and mark.attrib["aria-label"] for mark in found.values())


@pytest.mark.parametrize(("metric", "words"), [("st_lpips", "lower is better"), ("psnr_db", "higher is better")])
def test_the_title_says_which_way_is_better(flux: Front, metric: str, words: str) -> None:
    tree = ElementTree.fromstring(show.plot(flux, metric, rivals=False, chosen=None))
    assert words in tree.attrib["aria-label"]


def test_text_from_outside_is_escaped() -> None:
    evil = "<script>alert(1)</script>\"'&"
    point = FrontPoint(key=evil, label=evil, kind="ours", num_steps=1, words=(evil,), state="not certified")
    front = Front(model=evil, points=(FrontPoint(key="plain", label="p", kind="plain", num_steps=1), point))
    svg = scatter(
        [Mark(key=evil, label=evil, kind="ours", x=1.0, y=2.0, title=evil)],
        title=evil, x_title=evil, y_title=evil, chosen=evil,
    )  # fmt: skip
    for html in (svg, show.verdict(front, point, "psnr_db"), heatmap((), (evil,))):
        assert "<script" not in html


def test_nothing_measured_is_said() -> None:
    front = Front(model="m", points=(FrontPoint(key="plain", label="plain", kind="plain", num_steps=1),))
    assert "nothing is measured yet" in show.plot(front, "psnr_db", rivals=False, chosen=None)


def test_labels_do_not_lie_on_each_other() -> None:
    near = [Mark(key=f"{k}", label=f"plan {k}", kind="ours", x=1 + k / 50, y=30.0) for k in range(3)]
    svg = scatter([*near, Mark(key="far", label="far", kind="ours", x=2.0, y=40.0)], title="", x_title="", y_title="")
    labels = [
        (float(each.attrib["x"]), float(each.attrib["y"]), each.attrib["text-anchor"])
        for each in ElementTree.fromstring(svg).iter("text")
        if each.attrib.get("class") == "label"
    ]
    assert len(set(labels)) == 4
    assert len({(y, anchor) for _, y, anchor in labels}) > 1


@pytest.mark.parametrize("values", [(1.0, 2.0), (1e-5, 0.1), (3.0,), (0.0, 0.0)])
def test_ticks_are_round_and_inside(values: tuple[float, ...]) -> None:
    axis = Axis.around(values, 0, 100)
    assert all(0 <= axis.at(value) <= 100 for value in values)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 9 and all(axis.low <= tick <= axis.high for tick in ticks)
    assert all(float(short(tick)) == pytest.approx(tick) for tick in ticks)


def test_the_table_says_what_is_not_measured(flux: Front) -> None:
    rows = show.table(flux, "psnr_db", rivals=False, chosen="ours/turbo")
    assert [row[1] for row in rows if row[0]] == ["turbo"]
    assert all(len(row) == len(show.COLUMNS) for row in rows)
    bare = Front(
        model="m",
        points=(flux.points[0], FrontPoint(key="ours/x", label="x", kind="ours", num_steps=4, state="not certified")),
    )
    assert show.table(bare, "psnr_db", rivals=False, chosen=None)[1][3:6] == ["not measured", "", "not measured"]


@pytest.mark.parametrize(
    ("stops", "value", "log"),
    [((0.058, 0.0793, 0.265), 0.0793, False), ((0.0, 0.000145, 0.0279), 0.000145, True), ((19.5, 51.4), 19.5, False)],
)
def test_a_dial_has_a_stop_at_every_point(stops: tuple[float, ...], value: float, log: bool) -> None:
    tree = ElementTree.fromstring(
        re.sub(r"<input ([^>]*)>", r"<input \1/>", dial("x", stops, value, shown="v", log=log, floor=1e-5))
    )
    assert json.loads(tree.attrib["data-stops"]) == sorted(stops)
    assert len(tree.findall(".//i")) == len(stops)
    places = [float(each.attrib["style"].removeprefix("left:").removesuffix("%")) for each in tree.findall(".//i")]
    assert places == sorted(places) and places[0] == 0 and places[-1] == pytest.approx(100, abs=0.1)
    slider = next(each for each in tree.iter("input") if each.attrib["type"] == "range")
    assert int(slider.attrib["value"]) == pytest.approx(10 * places[sorted(stops).index(value)], abs=1)
    if log:
        assert 20 < places[1] < 60, "of errors that span decades the good ones can be told apart"


def test_a_dial_without_two_points_says_so() -> None:
    html = dial("<x>", [1.0], None, shown="")
    assert "no limit to set yet" in html and "<x>" not in html


def run_pasted(code: str, folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, env=_environment(), timeout=900
    )


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def explorer_picture(front: Front, point: FrontPoint, folder: Path) -> Image.Image:
    """What the explorer draws of the prompt that the code of a point names."""
    device = Device(places=Places(root=folder, output=folder), name="cpu")
    explorer = Explorer(Library(()), device, Kept(folder / "pictures"))
    with device.job("drawing"):
        explorer.picture(front, point, point.shown[-1])
    path = explorer.file(front, point, point.shown[-1])
    assert path is not None
    return frames_of(path)[0]


def test_the_code_runs_as_pasted_and_makes_the_same_picture(flux: Front, tmp_path: Path) -> None:
    """A plan by its preset, the same plan by its folder, and plain with fewer steps, in one process: torch is slow."""
    from dataclasses import replace

    fast = flux.point("ours/fast")
    codes = [show.code(flux, point) for point in (fast, replace(fast, preset=None), flux.point("fewer/7"))]
    pasted = "\n".join(code.replace("image.png", f"{number}.png") for number, code in enumerate(codes))
    run_pasted(pasted, tmp_path)
    first, second, fewer = ((tmp_path / f"{number}.png").read_bytes() for number in range(3))
    assert first == second != fewer
    shown = explorer_picture(flux, fast, tmp_path)
    with Image.open(io.BytesIO(first)) as pasted:
        assert pasted.convert("RGB").tobytes() == shown.tobytes(), "the pasted lines draw what the explorer shows"
    assert len(codes[0].splitlines()) <= 6


def test_code_of_other_things(flux: Front) -> None:
    compile(
        show.code(front_of_model("emoji-wan", []), FrontPoint(key="k", label="l", kind="plain", num_steps=5)),
        "c",
        "exec",
    )
    rival = FrontPoint(key="rival/x", label="x", kind="rival", num_steps=5)
    assert show.code(flux, rival).startswith("# x is a technique of others")
    theirs = Front(model='a/b"c', points=(flux.points[0],))
    compile(show.code(theirs, flux.points[0]), "pasted", "exec")
