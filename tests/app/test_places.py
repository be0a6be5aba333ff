"""What may be read, and what is refused: paths that lead out, uploads that are something else."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_text import save_tiny_text_pipeline

from dit_accel.app import places as places_module
from dit_accel.app.layouts import targets_of
from dit_accel.app.opening import open_path, open_search, open_uploads
from dit_accel.app.places import Places
from dit_accel.app.plans import shipped_folder
from dit_accel.app.points import CERTIFIED, NOT_CERTIFIED
from dit_accel.app.show import code
from dit_accel.errors import ConfigError

PLANS = shipped_folder()
FLUX = PLANS / "emoji-flux"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    root = tmp_path / "root"
    shutil.copytree(FLUX, root / "flux")
    (tmp_path / "secret").mkdir()
    shutil.copytree(FLUX / "fast", tmp_path / "secret" / "fast")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to(root / "loop")
    return Places(root=root, output=tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        *("../secret/fast", "flux/../../secret/fast", "link/fast", "link/../../secret/fast", "/etc/passwd"),
        *("//etc/passwd", "file:///etc/passwd", "~/x", "~root/.ssh", "..", "../..", "./../secret/fast"),
        *("a\0b", "x" * 5000, "a/../..//etc", "loop", "%2e%2e/secret/fast", "..\\secret\\fast"),
        "/proc/self/environ",
    ],
)
def test_nothing_outside_the_folder_is_read(places: Places, text: str) -> None:
    with pytest.raises(ConfigError):
        open_path(places, text)


@pytest.mark.parametrize("text", ["../secret/fast", "/etc", "", "nowhere", ".hidden/../../x", "../x"])
def test_no_model_outside_the_folder_is_loaded(places: Places, text: str) -> None:
    with pytest.raises(ConfigError):
        places.model(text)


def test_models_that_may_be_named(places: Places) -> None:
    assert places.model(" emoji-flux ") == "emoji-flux"
    assert places.model("PixArt-alpha/PixArt-XL-2-512x512") == "PixArt-alpha/PixArt-XL-2-512x512"
    assert places.model("flux") == str((places.root / "flux").resolve())


def test_a_folder_where_it_was_started_is_no_model_of_the_hub(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers looks there first."""
    save_tiny_text_pipeline(tmp_path / "started" / "user" / "model")
    monkeypatch.chdir(tmp_path / "started")
    with pytest.raises(ConfigError, match="outside the folder"):
        places.model("user/model")
    assert places.model("user/other") == "user/other"
    (places.root / "user").symlink_to(tmp_path / "started" / "user")
    with pytest.raises(ConfigError, match="outside the folder"):
        places.model("user/model")
    assert Places(root=Path(), output=tmp_path).model("user/model") == str(tmp_path / "started" / "user" / "model")


def test_a_folder_of_plans_and_one_plan(places: Places) -> None:
    name, front = open_path(places, "flux/")
    assert (name, front.model) == ("flux", "emoji-flux")
    ours = {p.label: p.state for p in front.points if p.kind == "ours"}
    shipped = ["light", "balanced", "fast", "turbo", "extreme"]
    assert [label for label in ours if label not in ("lossless", "w4a8", "w8a8")] == shipped
    assert {ours[label] for label in shipped} == {CERTIFIED}
    for text in ("flux/fast", "flux/fast/dit_accel_plan.json"):
        _, front = open_path(places, text)
        assert front.point("ours/fast").preset is None  # its own folder is what the code names


def test_an_uncertified_plan_is_known_by_its_fingerprint(places: Places) -> None:
    shutil.copytree(PLANS / "emoji-wan" / "fast", places.root / "mine")
    path = places.root / "mine" / "dit_accel_plan.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "certificate": None}))
    (places.root / "mine" / "report.json").unlink(missing_ok=True)
    _, front = open_path(places, "mine")
    assert front.model == "emoji-wan" and front.video
    assert front.point("ours/mine").state == NOT_CERTIFIED
    path.write_text(json.dumps({**data, "certificate": None, "fingerprint": None}))
    with pytest.raises(ConfigError, match="does not say which model"):
        open_path(places, "mine")
    assert open_path(places, "mine", "user/model")[1].model == "user/model"


def test_a_report_alone(places: Places) -> None:
    shutil.copy(FLUX / "fast" / "report.json", places.root / "some.json")
    _, front = open_path(places, "some.json")
    fast = front.point("ours/fast")
    assert fast.preset == "fast" and fast.ratio is not None and fast.state == NOT_CERTIFIED
    data = json.loads((places.root / "some.json").read_text())
    for variant in data["variants"]:
        if variant["plan"]:
            variant["plan"]["passes"][0]["computed"] = "1" * 28
    (places.root / "some.json").write_text(json.dumps(data))
    assert not open_path(places, "some.json")[1].point("ours/fast").can_run, "not the plan that the name gives today"


def test_an_upload_is_copied_under_our_names(places: Places, tmp_path: Path) -> None:
    for name in ("dit_accel_plan.json", "dit_accel_plan.safetensors", "report.json"):
        shutil.copy(FLUX / "turbo" / name, tmp_path / f"evil..{name}")
    files = [tmp_path / f"evil..{name}" for name in ("dit_accel_plan.json", "report.json")]
    files.append(tmp_path / "evil..dit_accel_plan.safetensors")
    _, front = open_uploads(places, files)
    point = front.points[1]
    assert point.folder is not None and point.folder.parent == places.opened and point.state == CERTIFIED
    assert sorted(path.name for path in point.folder.iterdir()) == [
        "dit_accel_plan.json",
        "dit_accel_plan.safetensors",
        "report.json",
    ]


def test_a_plan_that_was_changed_since_is_not_shown_as_certified(places: Places, tmp_path: Path) -> None:
    """By a path, in a folder of plans, and uploaded: what somebody else says of a plan is held against the plan."""
    path = places.root / "flux" / "fast" / "dit_accel_plan.json"
    data = json.loads(path.read_text())
    data["passes"][0]["guard"] = [0.5] * len(data["passes"][0]["computed"])
    path.write_text(json.dumps(data))
    files = [path, path.with_suffix(".safetensors"), path.with_name("report.json")]
    for front in (open_path(places, "flux/fast")[1], open_path(places, "flux")[1], open_uploads(places, files)[1]):
        point = next(each for each in front.points if each.label == "fast")
        assert point.state == NOT_CERTIFIED and "changed after" in point.words[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "no dit-accel file"),
        (b'{"format": "dit-accel/report", "version": 99}', "this dit-accel reads"),
        (b'{"format": "dit-accel/plan", "version": 2, "name": "x", "passes": [], "pases": 1}', "unknown key 'pases'"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_upload_gets_one_clear_message_and_is_not_kept(
    places: Places, tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "up.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        open_uploads(places, [path])
    assert not places.opened.exists() or not any(places.opened.iterdir())


def test_uploads_that_do_not_belong_together(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = FLUX / "fast" / "dit_accel_plan.safetensors"
    with pytest.raises(ConfigError, match="upload both"):
        open_uploads(places, [tensors])
    with pytest.raises(ConfigError, match="one plan or report at a time"):
        open_uploads(places, [FLUX / "fast" / "report.json", FLUX / "turbo" / "report.json"])
    with pytest.raises(ConfigError, match="nothing was uploaded"):
        open_uploads(places, [])
    monkeypatch.setattr(places_module, "MAX_FILE_BYTES", 10)
    with pytest.raises(ConfigError, match="is not read"):
        open_uploads(places, [tensors])


def test_a_better_plan_is_not_hidden_by_an_older_certificate(tmp_path: Path) -> None:
    """All three are called "fast"; two are the same, and the third was found later."""
    for name in ("certified-fast", "5-of-28", "6-of-28", "chosen"):
        shutil.copytree(FLUX / "fast", tmp_path / name)
        path = tmp_path / name / "dit_accel_plan.json"
        data = json.loads(path.read_text())
        if name in ("6-of-28", "chosen"):
            data["passes"][0]["guard"] = [0.5] * len(data["passes"][0]["computed"])
        if name != "certified-fast":
            path.write_text(json.dumps({**data, "certificate": None}))
            (tmp_path / name / "report.json").unlink()
    front = open_search(tmp_path, "emoji-flux")
    found = {point.key: point for point in front.points if point.kind == "ours"}
    assert {key: point.state for key, point in found.items()} == {
        "ours/certified-fast": CERTIFIED,
        "ours/6-of-28": NOT_CERTIFIED,
    }
    labels = {point.label for point in found.values()}
    assert len(labels) == 2 and all(label.startswith("fast (") for label in labels), "a row is chosen by its label"


def test_a_search_without_plans(places: Places) -> None:
    with pytest.raises(ConfigError, match="saved no plan"):
        open_search(places.output, "emoji-flux")


def test_a_hub_id_without_a_hub_is_one_clear_message(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*args: object, **kwargs: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ConfigError, match="nothing was found on the hub at 'some/plan'"):
        open_path(places, "some/plan")


def test_a_link_inside_a_plan_leads_nowhere_else(places: Places, tmp_path: Path) -> None:
    """A plan's folder lies inside, its files are links to the outside."""
    names = ("dit_accel_plan.json", "dit_accel_plan.safetensors", "report.json")
    (places.root / "sly").mkdir()
    for name in names:
        (places.root / "sly" / name).symlink_to(tmp_path / "secret" / "fast" / name)
    (places.root / "many").mkdir()
    (places.root / "many" / "one").symlink_to(tmp_path / "secret" / "fast")
    for text in ("sly", *(f"sly/{name}" for name in names), "many", "many/one"):
        with pytest.raises(ConfigError, match="outside"):
            open_path(places, text)


def test_a_pipeline_of_ones_own(places: Places) -> None:
    save_tiny_text_pipeline(places.root / "mine")
    name, front = open_path(places, "mine")
    assert name == "mine" and front.plain_s is None and not front.video and front.num_steps == 20
    fast = front.point("ours/fast")
    assert fast.can_run and fast.ratio is None and fast.state == NOT_CERTIFIED and "Calibrate" in fast.words[0]
    assert "load_pipeline(" in code(front, fast) and str(places.root.resolve() / "mine") in code(front, fast)
    assert targets_of(front.model)[0].name == "transformer"


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ('{"_class_name": "DDPMPipeline"}', "takes no prompt"),
        ('{"_class_name": "NoSuchPipeline"}', "does not have"),
        ('{"_class_name": "AutoencoderKL"}', "does not have"),
        ("{}", "does not say which pipeline"),
        ("[", "does not say which pipeline"),
    ],
)
def test_a_model_that_is_refused(places: Places, index: str, words: str) -> None:
    (places.root / "odd").mkdir()
    (places.root / "odd" / "model_index.json").write_text(index)
    with pytest.raises(ConfigError, match=words):
        open_path(places, "odd")


def test_a_pipeline_and_a_plan_on_the_hub(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    hub = tmp_path / "hub"
    (hub / "user" / "model").mkdir(parents=True)
    (hub / "user" / "model" / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    shutil.copytree(FLUX / "fast", hub / "user" / "plan")

    def download(repo: str, name: str) -> str:
        if not (hub / repo / name).is_file():
            raise LocalEntryNotFoundError(f"{name} is not in the cache")
        return str(hub / repo / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    name, front = open_path(places, "user/model")
    assert name == front.model == "user/model" and 'load_pipeline("user/model"' in code(front, front.points[0])
    _, front = open_path(places, "user/plan")
    assert '"user/plan")' in code(front, front.points[1]), "who reads the code has not this machine's cache"
    with pytest.raises(ConfigError, match="nothing was found"):
        open_path(places, "user/none")
