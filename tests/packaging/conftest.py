"""Make ``source_tree`` importable, and build the wheel once a worker."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the tree, with made-up weights, cards, prompts and plans added to it."""
    from source_tree import EXTRA_DATA, copy_tree, pip

    folder = tmp_path_factory.mktemp("wheel")
    source = copy_tree(folder / "source")
    for place in EXTRA_DATA:
        path = source / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source))
    (built,) = folder.glob("*.whl")
    return built
