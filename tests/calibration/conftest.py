"""Make the helpers of the passes' tests importable."""

import sys
from pathlib import Path

for folder in (Path(__file__).resolve().parents[1] / "passes", Path(__file__).resolve().parent):
    sys.path.insert(0, str(folder))
