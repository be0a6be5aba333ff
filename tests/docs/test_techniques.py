"""All code of the page runs, from top to bottom in one process."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "techniques.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dit_accel.errors.AccelerationWarning")
def test_the_code_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S))
    names: dict[str, object] = {}
    exec(compile(code, "techniques.md", "exec"), names)
    assert "encoder runs saved" in capsys.readouterr().out
    assert names["plan"].name == "smoothcache"  # type: ignore[attr-defined]
