"""Fill the pages anew. See the package's docstring."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[0] = str(HERE.parents[1])  # instead of this folder, whose files are no modules of their own

from dit_accel.errors import ConfigError  # noqa: E402
from pages.documents import DOCUMENTS, ROOT  # noqa: E402
from pages.markers import fill  # noqa: E402
from pages.tables import TABLES  # noqa: E402


def main() -> None:
    """Write every page whose tables or figures have changed; none when one of them cannot be filled."""
    filled = {}
    for name in DOCUMENTS:
        before = (ROOT / name).read_text(encoding="utf-8")
        try:
            filled[name] = fill(before, ROOT, TABLES)
        except ConfigError as error:
            raise SystemExit(f"error: {name}: {error}") from error
        print(f"{name}: {'as it was' if filled[name] == before else 'written anew'}")
    for name, text in filled.items():
        (ROOT / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
