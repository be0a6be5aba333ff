"""Weights that are not here: the error says which file goes where, and nothing is fetched unasked."""

from pathlib import Path

import pytest
import torch

from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.evaluation.suites import weight_files
from dit_accel.evaluation.suites.judges import JUDGES, load_feature_network, load_judge
from dit_accel.evaluation.suites.protocols import SUITES, find_suite
from dit_accel.evaluation.suites.weight_files import WEIGHT_FILES, find_weights


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refused(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused)


@pytest.mark.parametrize("key", WEIGHT_FILES)
def test_missing(tmp_path: Path, key: str) -> None:
    wanted = WEIGHT_FILES[key]
    with pytest.raises(MissingDependencyError) as caught:
        find_weights(key, tmp_path)
    words = str(caught.value)
    assert str(tmp_path / wanted.name) in words and wanted.url in words and "--download" in words
    assert wanted.needed_by in words and "no route" not in words
    with pytest.raises(MissingDependencyError) as caught:
        find_weights(key, tmp_path, download=True)
    words = str(caught.value)
    assert "no route to host" in words and str(tmp_path / wanted.name) in words and wanted.url in words
    assert not (tmp_path / wanted.name).exists()


def test_found_and_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    file = hub / WEIGHT_FILES["inception-v3"].name
    file.write_bytes(b"x")
    assert find_weights("inception-v3", tmp_path) == file
    (tmp_path / file.name).write_bytes(b"y")
    assert find_weights("inception-v3", tmp_path) == tmp_path / file.name
    source = tmp_path / "downloaded"
    source.write_bytes(b"clip")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name: str(source))
    got = find_weights("clip", tmp_path / "weights", download=True)
    assert got.read_bytes() == b"clip" and got == tmp_path / "weights" / WEIGHT_FILES["clip"].name
    assert [path.name for path in got.parent.iterdir()] == [got.name]


def test_only_inception_may_be_called_fid(tmp_path: Path) -> None:
    (tmp_path / WEIGHT_FILES["inception-v3"].name).write_bytes(b"another network")
    with pytest.raises(ConfigError, match="may not be called FID"):
        load_feature_network("inception-v3", tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'inception-v3'"):
        load_feature_network("inception", tmp_path)


def test_judges(tmp_path: Path) -> None:
    assert load_judge("emoji-two-tower", tmp_path).name == "emoji-two-tower"
    for name in ("clip", "image-reward"):
        with pytest.raises(MissingDependencyError, match="emoji-two-tower, which is no CLIP score"):
            load_judge(name, tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'clip'"):
        load_judge("clp", tmp_path)
    assert {judge for suite in SUITES.values() for judge in suite.judges} <= set(JUDGES)
    with pytest.raises(ConfigError, match="Did you mean 'coco'"):
        find_suite("coca")
    assert weight_files.CLIP_ARCHITECTURE.endswith("quickgelu")  # OpenAI's weights
