"""Where the explorer reads and writes: nothing that a visitor types can lead out of the folder it was opened on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dit_accel.embedded import list_embedded
from dit_accel.errors import ConfigError

# "user/name"; neither part begins with a dot, so that no ".." passes for one.
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")
MAX_FILE_BYTES = 64 * 2**20
LINK_DEPTH = 3  # a folder of plans, a plan, its files; a pipeline, its parts, their files


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The folders.

    Attributes:
        root: What may be read: reports, plans and models lie in it.
        output: What is written: pictures, searches.
    """

    root: Path
    output: Path

    @property
    def pictures(self) -> Path:
        """Drawn pictures, which are kept."""
        return self.output / "app" / "pictures"

    @property
    def opened(self) -> Path:
        """Copies of what was uploaded."""
        return self.output / "app" / "opened"

    @property
    def searches(self) -> Path:
        """Calibrations, where ``dit-accel calibrate`` keeps them too."""
        return self.output / "calibrate"

    def inside(self, text: str) -> Path:
        """A path in the folder that may be read, links followed.

        Args:
            text: Relative to that folder, or absolute and in it.

        Raises:
            ConfigError: It leads out of it, or nothing is there.
        """
        root = self.root.resolve()
        try:
            path = (root / text).resolve()
            there = path.exists()
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"'{text[:80]}' is no path") from error
        if not self._may_read(path):
            raise ConfigError(
                f"'{text}' lies outside the folder that this explorer may read; --folder chooses another at the start"
            )
        if not there:
            raise ConfigError(f"there is nothing at '{text}' in the folder that this explorer may read")
        for link in _links(path, LINK_DEPTH):
            if not self._may_read(_followed(link)):
                raise ConfigError(
                    f"'{link.name}' in '{text}' is a link that leads outside the folder that this explorer may read; "
                    "put the file itself there"
                )
        return path

    def _may_read(self, path: Path) -> bool:
        """Whether a path without links in it lies where reading is allowed."""
        return any(path.is_relative_to(folder.resolve()) for folder in (self.root, self.output))

    def model(self, text: str) -> str:
        """What ``load_pipeline`` is given for a model that a visitor has named.

        Raises:
            ConfigError: It is no embedded name, no hub id, and no folder that may be read; or it looks like a hub id
                and is a folder where the explorer was started, which diffusers would take in its place.
        """
        text = text.strip()
        if text in list_embedded():
            return text
        if not text:
            raise ConfigError("no model was named: give an embedded name, a folder or a hub id")
        if HUB_ID.fullmatch(text) and not (self.root / text).exists():
            if Path(text).exists():
                raise ConfigError(
                    f"'{text}' lies where this explorer was started, outside the folder that it may read, and would "
                    "be taken for the model of that name on the hub: start the explorer somewhere else"
                )
            return text
        return str(self.inside(text))


def _followed(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # in a circle: nowhere
        return Path("/")


def _links(path: Path, depth: int) -> Iterator[Path]:
    """Links in a folder, not in hidden ones; what they lead to is not looked into."""
    if not path.is_dir() or not depth:
        return
    for each in sorted(path.iterdir()):
        if each.is_symlink():
            yield each
        elif not each.name.startswith("."):
            yield from _links(each, depth - 1)


def check_size(path: Path) -> None:
    """Refuse a file that is too large to be a plan or a report.

    Raises:
        ConfigError: It is.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ConfigError(
            f"'{path.name}' has {size / 2**20:.0f} MiB; a plan or report of more than 64 MiB is not read"
        )
