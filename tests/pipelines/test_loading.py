"""Loading from an embedded name, a folder or the hub; each mistake is one error."""

from pathlib import Path

import diffusers
import pytest
import torch
from tiny_text import save_tiny_text_pipeline, tiny_text_pipeline

import dit_accel.embedded
from dit_accel.errors import ConfigError
from dit_accel.pipelines.loading import dtype_named, folder_of_model, load_pipeline, name_of_model, pick_device


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_text_pipeline(tmp_path_factory.mktemp("pipe"))


@pytest.fixture
def one_embedded(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """As if one pipeline, called emoji-pixart, shipped; returns the arguments it was loaded with."""
    calls: list[dict] = []

    def load(name: str, **kwargs: object) -> diffusers.DiffusionPipeline:
        calls.append({"name": name, **kwargs})
        return tiny_text_pipeline()

    monkeypatch.setattr(dit_accel.embedded, "list_embedded", lambda: ["emoji-pixart"], raising=False)
    monkeypatch.setattr(dit_accel.embedded, "load_embedded", load, raising=False)
    return calls


def test_embedded_name(one_embedded: list[dict]) -> None:
    assert isinstance(load_pipeline("emoji-pixart", dtype="float32"), diffusers.PixArtAlphaPipeline)
    assert one_embedded == [{"name": "emoji-pixart", "dtype": torch.float32}]


def test_folder(folder: Path, one_embedded: list[dict]) -> None:
    pipe = load_pipeline(folder, dtype=torch.bfloat16, device="cpu")
    assert pipe.transformer.dtype == torch.bfloat16
    expected = tiny_text_pipeline().transformer.state_dict()
    found = load_pipeline(str(folder)).transformer.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert one_embedded == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("emoji-pixar", r"Did you mean 'emoji-pixart'\?.*hub id"),
        ("./nowhere", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("a/b/c", "no such folder"),
        (
            "nobody/nothing-of-the-kind",
            "cannot load 'nobody/nothing-of-the-kind'.*not complete in the local hub cache.*was not asked",
        ),
    ],
)
@pytest.mark.usefixtures("one_embedded")
def test_what_is_not_there(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_pipeline(source)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("one_embedded")
def test_what_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model_index\.json"):
        load_pipeline(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        load_pipeline(tmp_path / "file")
    (tmp_path / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_pipeline(tmp_path)


def test_dtype_and_device_names() -> None:
    assert dtype_named("bfloat16") is torch.bfloat16
    with pytest.raises(ConfigError, match="Did you mean 'float16'"):
        dtype_named("flot16")
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="cannot be used"):
        pick_device("cuda:77")
    with pytest.raises(ConfigError, match="cannot be used"):
        pick_device("gpu")


def test_what_a_model_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By everything that keeps its work in a folder of that name, so that each finds what another one made."""
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "emoji-flux").mkdir()
    monkeypatch.chdir(tmp_path)
    for text in ("models/mine", "models/mine/", "./models/mine", str(tmp_path / "models" / "mine")):
        assert name_of_model(text) == folder_of_model(text) == "mine"
    assert name_of_model("emoji-flux") == "emoji-flux"
    assert name_of_model("user/model") == "user/model" and folder_of_model("user/model") == "user--model"
