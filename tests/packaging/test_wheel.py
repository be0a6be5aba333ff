"""The wheel holds the tree: all of it and nothing else."""

import zipfile
from pathlib import Path

from source_tree import EXTRA_DATA, ROOT, SIDE_FOLDERS, source_files


def contents(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_wheel_equals_the_tree(wheel: Path) -> None:
    expected = set(source_files(ROOT)) | {in_wheel(place) for place in EXTRA_DATA}
    assert contents(wheel) == expected


def in_wheel(place: str) -> str:
    return f"dit_accel/{place}" if place.split("/")[0] in SIDE_FOLDERS else place


def test_weights_cards_prompts_and_plans_are_in(wheel: Path) -> None:
    assert {in_wheel(place) for place in EXTRA_DATA} <= contents(wheel)


def test_nothing_is_installed_at_the_top_but_the_package(wheel: Path) -> None:
    assert {name.split("/")[0] for name in contents(wheel)} == {"dit_accel"}


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
        (scripts,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "dit-accel = dit_accel.cli:main" in archive.read(scripts).decode()
        assert any(name.endswith("LICENSE") for name in archive.namelist())
    assert "Name: dit-accel" in metadata
    assert "License-Expression: Apache-2.0" in metadata
