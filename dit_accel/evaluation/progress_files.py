"""Files of long work that can be stopped: each appears whole or not at all, and a folder knows whose work it holds."""

import contextlib
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


def read_sound(path: Path) -> dict[str, Any] | None:
    """A JSON object that must not be made again by guess; ``None`` where there is no file.

    Raises:
        ConfigError: There is one, and it is damaged or cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is damaged ({error})") from error
    if not isinstance(data, dict):
        raise ConfigError(f"'{path}' is damaged (it holds no JSON object)")
    return data


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees a part of it, a power cut included; its folder is made.

    Raises:
        ConfigError: It cannot be written. What was there before is there still.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(
            f"cannot write '{path}': {error.strerror or error}. What was written before is there still: make room, "
            "and run the same command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


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
        ConfigError: It holds the work of something else, or the file is damaged, so that nobody knows whose it is.
    """
    wanted = json.loads(json.dumps(identity))
    try:
        known = read_sound(path)
    except ConfigError as error:
        raise ConfigError(
            f"{error}, so it cannot be told whose work '{path.parent}' holds. Nothing was deleted. Give another "
            "folder; or delete that one file, if you know that the folder is of the same work"
        ) from error
    if known is None:
        write_json(path, wanted)
        return False
    if known != wanted:
        raise ConfigError(
            f"'{path.parent}' holds {what} of something else, which differs in: "
            f"{', '.join(differing(known, wanted))}. Delete it, or give another folder."
        )
    return True


def differing(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What two identities of work differ in, by name."""
    return sorted(name for name in {*known, *wanted} if known.get(name) != wanted.get(name))
