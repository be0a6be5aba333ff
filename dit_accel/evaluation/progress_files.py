"""Files of long work that can be stopped: each appears whole or not at all, and a folder knows whose work it holds."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; ``None`` where there is none, or a damaged one, which is to be made again."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return data if isinstance(data, dict) else None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees a part of it; its folder is made.

    Raises:
        ConfigError: It cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror or error}") from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """:func:`write_whole` of JSON data."""
    write_whole(path, json.dumps(data, indent=1).encode())


def claim(path: Path, identity: Mapping[str, Any], what: str) -> bool:
    """Say whose work a folder holds; returns whether it held the beginnings of the same already.

    Args:
        path: The file that says so.
        identity: Everything that numbers depend on, as JSON data. Only work with an equal one is gone on with.
        what: In words, for the error, e.g. ``an unfinished certification``.

    Raises:
        ConfigError: It holds the work of something else.
    """
    known, wanted = read_json(path), json.loads(json.dumps(identity))
    if known is None:
        write_json(path, wanted)
        return False
    if known != wanted:
        names = sorted(name for name in {*known, *wanted} if known.get(name) != wanted.get(name))
        raise ConfigError(
            f"'{path.parent}' holds {what} of something else, which differs in: {', '.join(names)}. Delete it, or "
            "give another folder."
        )
    return True
