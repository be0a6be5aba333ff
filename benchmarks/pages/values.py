"""Finds a value in a report, or in any other JSON file, and writes it as a page shows it."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.evaluation.reports.report import FORMAT, Report


@cache
def load(path: Path) -> Any:
    """A report where the file is one, else plain JSON data.

    Raises:
        ConfigError: Nothing is there, or it is not valid.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"no figures in '{path}': {error}") from error
    return Report.load(path) if isinstance(data, dict) and data.get("format") == FORMAT else data


def find(data: Any, way: Sequence[str]) -> Any:
    """Follow a way into reports and JSON data.

    Args:
        data: Where it begins.
        way: Names of attributes, keys of mappings, and of lists a position or the ``name`` of a member. Several steps
            may be written as one with dots between, unless that is itself a name; a report's variants need not be
            mentioned.

    Raises:
        ConfigError: There is no such thing; the message lists what is there.
    """
    for step in way:
        names = [step] if step in _members(data) else step.split(".")
        for name in names:
            members = _members(data)
            if name not in members:
                known = ", ".join(members)
                raise ConfigError(f"nothing is called '{name}'.{did_you_mean(name, members)} There is: {known}.")
            data = members[name]
    return data


def written(value: Any, spec: str) -> str:
    """A value in a Python format; a pair, such as an interval, in brackets.

    Raises:
        ConfigError: It is missing, or cannot be written so.
    """
    if isinstance(value, tuple | list):
        return f"[{', '.join(written(each, spec) for each in value)}]"
    if not isinstance(value, int | float | str):
        raise ConfigError(f"a figure must be a number or a word, not {type(value).__name__}")
    try:
        return format(value, spec)
    except ValueError as error:
        raise ConfigError(f"{value!r} cannot be written as '{spec}': {error}") from error


def _members(data: Any) -> Mapping[str, Any]:
    if isinstance(data, Mapping):
        return data
    if isinstance(data, list | tuple):
        by_place = {str(place): each for place, each in enumerate(data)}
        return by_place | {each.name: each for each in data if isinstance(getattr(each, "name", None), str)}
    if isinstance(data, Report):
        return {**_fields(data), **{variant.name: variant for variant in data.variants}}
    return _fields(data) if hasattr(type(data), "model_fields") else {}


def _fields(record: Any) -> dict[str, Any]:
    """What a record holds, and what it tells by a property."""
    told = [name for cls in type(record).__mro__ for name, each in vars(cls).items() if isinstance(each, property)]
    names = [*type(record).model_fields, *(name for name in told if not name.startswith(("_", "model_")))]
    return {name: getattr(record, name) for name in names}
