"""Our folder ``kernels/`` must not hide the package ``kernels`` of Hugging Face, which diffusers imports."""

from pathlib import Path

import pytest
from source_tree import ROOT, copy_tree, run_python

# Any name that is asked for exists; the real package is not needed to see whose it is.
FAKE = """
class _Any:
    def __init__(self, *args, **kwargs): pass
    def __call__(self, *args, **kwargs): return self
    def __getattr__(self, name): return _Any()

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_Any,), {})
"""
WHOSE = "import kernels; print(kernels.__file__)"
IMPORT = """
import transformers.integrations.hub_kernels
from transformers import T5EncoderModel
from diffusers import DiffusionPipeline, FluxPipeline, PixArtAlphaPipeline
import dit_accel.kernels, kernels
print(kernels.__file__); print(list(dit_accel.kernels.__path__)[0])
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an installed package ``kernels`` of a version that transformers accepts."""
    package = tmp_path / "site" / "kernels"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    info = tmp_path / "site" / "kernels-0.18.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n")
    return tmp_path / "site"


def test_the_installed_package_wins_with_our_root_first(site: Path, tmp_path: Path) -> None:
    assert Path(run_python(WHOSE, cwd=tmp_path, PYTHONPATH=f"{ROOT}:{site}")).parent == site / "kernels"
    assert Path(run_python(WHOSE, cwd=ROOT, PYTHONPATH=str(site))).parent == site / "kernels"


def test_diffusers_and_transformers_import(site: Path, tmp_path: Path) -> None:
    theirs, ours = run_python(IMPORT, cwd=tmp_path, PYTHONPATH=f"{ROOT}:{site}").splitlines()
    assert Path(theirs).parent == site / "kernels"
    assert Path(ours) == ROOT / "kernels"


def test_this_test_would_notice(site: Path, tmp_path: Path) -> None:
    """With an ``__init__.py`` our folder does hide the package."""
    copy = copy_tree(tmp_path / "copy")
    (copy / "kernels" / "__init__.py").write_text("")
    assert Path(run_python(WHOSE, cwd=tmp_path, PYTHONPATH=f"{copy}:{site}")).parent == copy / "kernels"
