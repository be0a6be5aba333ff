"""The rules that keep the mapped folders importable."""

import pytest
from source_tree import ROOT, SIDE_FOLDERS, pyproject

PROJECT = pyproject()


def test_kernels_has_no_init() -> None:
    """With one, the repository root on ``sys.path`` would hide the package that diffusers imports."""
    assert (ROOT / "kernels").is_dir()
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("folder", SIDE_FOLDERS)
def test_side_folders_are_flat(folder: str) -> None:
    nested = [path for path in (ROOT / folder).rglob("*.py") if path.parent != ROOT / folder]
    assert nested == [], "a sub-package of a side folder is left out of the wheel without a word"


def test_package_list_equals_the_tree() -> None:
    found = {"dit_accel"} | {f"dit_accel.{side}" for side in SIDE_FOLDERS}
    for path in (ROOT / "dit_accel").rglob("*.py"):
        found.add(".".join(path.parent.relative_to(ROOT).parts))
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(found)
    assert len(set(listed)) == len(listed)


def test_side_folders_are_mapped() -> None:
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {f"dit_accel.{side}": side for side in SIDE_FOLDERS}


def test_every_package_but_kernels_has_an_init() -> None:
    for name in PROJECT["tool"]["setuptools"]["packages"]:
        folder = PROJECT["tool"]["setuptools"]["package-dir"].get(name, name.replace(".", "/"))
        assert (ROOT / folder / "__init__.py").exists() == (name != "dit_accel.kernels"), name


def test_extras_console_script_and_floors() -> None:
    project = PROJECT["project"]
    assert {"app", "eval", "video", "bench", "search", "ray", "torchao", "dev", "all"} == set(
        project["optional-dependencies"]
    )
    assert project["scripts"] == {"dit-accel": "dit_accel.cli:main"}
    assert project["requires-python"] == ">=3.10"
    assert "diffusers>=0.42" in project["dependencies"]


def test_version_is_said_once() -> None:
    import dit_accel

    assert PROJECT["project"]["version"] == dit_accel.__version__


def test_constraints_are_names_and_versions_only() -> None:
    from packaging.requirements import Requirement

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    for line in lines:
        requirement = Requirement(line)
        assert requirement.url is None and not requirement.extras
        assert [specifier.operator for specifier in requirement.specifier] == ["=="]
    assert "diffusers" in {Requirement(line).name for line in lines}
    names = [Requirement(line).name.lower() for line in lines]
    assert names == sorted(set(names))


def test_constraints_allow_what_the_project_asks_for() -> None:
    from packaging.requirements import Requirement

    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and line[0] != "#":
            requirement = Requirement(line)
            pinned[requirement.name.lower().replace("_", "-")] = next(iter(requirement.specifier)).version
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    for item in wanted:
        requirement = Requirement(item)
        version = pinned.get(requirement.name.lower().replace("_", "-"))
        assert version is None or requirement.specifier.contains(version), item
    for item in project["dependencies"]:
        assert Requirement(item).name.lower().replace("_", "-") in pinned, item
