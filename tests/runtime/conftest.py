"""Make ``reference`` and ``snapshot`` importable, and every unexpected warning of ours an error."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
