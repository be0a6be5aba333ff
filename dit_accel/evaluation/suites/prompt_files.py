"""Reads prompts from the files that benchmarks come in. What cannot be used is counted and named.

By the file's suffix: ``.txt`` has a prompt a line; ``.tsv`` and ``.csv`` name their columns (PartiPrompts); ``.jsonl``
has an object or a string a line; ``.json`` is a list of them (VBench), an object of objects (MJHQ-30K's
``meta_data.json``), or COCO's captions. Columns and keys are known under several names, in capital or small letters.
"""

import csv
import io
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.records import Skipped
from dit_accel.prompts import load_prompts

PROMPT_KEYS = ("prompt", "caption", "text", "prompt_en")
CATEGORY_KEYS = ("category", "categories", "dimension")
NAME_KEYS = ("image_id", "id", "name")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffd]")  # control characters, and what stands for broken UTF-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image or video to make.

    Attributes:
        name: Of its file, without suffix; unique.
        prompt: The prompt.
        seed: Of its initial noise.
        categories: It is part of.
        motion: Direction and change of size that its caption names, where that is known.
    """

    name: str
    prompt: str
    seed: int = 0
    categories: tuple[str, ...] = ()
    motion: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """What a file or a shipped list holds.

    Attributes:
        source: Name of the file or list.
        items: In the file's order, without seeds.
        skipped: What could not be used.
        shipped: Whether it is the list ``certify`` that ships here.
    """

    source: str
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()
    shipped: bool = False

    def select(self, num: int | None, *, per_prompt: int, seed: int, shuffled: bool) -> tuple[Item, ...]:
        """The items to make, each with its seed.

        Args:
            num: So many prompts; ``None`` or more than there are: all.
            per_prompt: Images or videos of each.
            seed: Of the first one; the next ones count up.
            shuffled: Draw the prompts at random (always the same ones) in place of taking the first.
        """
        chosen: Sequence[Item] = self.items
        if shuffled:
            chosen = random.Random(0).sample(chosen, len(chosen))
        chosen = chosen[: len(chosen) if num is None else num]
        made: list[Item] = []
        for item in chosen:
            for copy in range(per_prompt):
                name = item.name if per_prompt == 1 else f"{item.name}-{copy}"
                made.append(replace(item, name=name, seed=seed + len(made)))
        return tuple(made)


def shipped_prompts(kind: str) -> PromptSet:
    """The list ``certify``, for images or videos."""
    found = load_prompts("certify", kind)
    motions: Sequence[Any] = (None,) * len(found.prompts)
    if kind == "video":
        motions = tuple(zip(found.labels["directions"], found.labels["scales"], strict=True))
    items = tuple(
        Item(name=f"{number:06}", prompt=prompt, motion=motion)
        for number, (prompt, motion) in enumerate(zip(found.prompts, motions, strict=True))
    )
    return PromptSet(source=f"the shipped list certify, version {found.version}", items=items, shipped=True)


def read_prompts(path: Path) -> PromptSet:
    """Read a prompt file of one of the kinds that this module knows.

    Raises:
        ConfigError: It cannot be read, is no such file, or holds no usable prompt.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot read prompts from '{path}': {error.strerror or error}") from error
    readers = {".json": _json, ".jsonl": _jsonl, ".tsv": _table, ".csv": _table}
    items: list[Item] = []
    skipped: list[Skipped] = []
    names: set[str] = set()
    for number, (place, found) in enumerate(readers.get(path.suffix.lower(), _lines)(text, path)):
        item = found if isinstance(found, str) else _item(found, number)
        if isinstance(item, Item) and item.name in names:
            item = f"'{item.name}' is there twice"
        if isinstance(item, str):
            skipped.append(Skipped(where=f"{path.name}, {place}", why=item))
        else:
            names.add(item.name)
            items.append(item)
    if not items:
        first = f"; the first: {skipped[0].where}: {skipped[0].why}" if skipped else ""
        raise ConfigError(f"'{path}' holds no usable prompt, and {len(skipped)} that are not{first}")
    return PromptSet(source=path.name, items=tuple(items), skipped=tuple(skipped))


Found = Iterator[tuple[str, "dict[str, Any] | str"]]
"""Where in the file, and what is there: an object, or why there is none."""


def _lines(text: str, path: Path) -> Found:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", {"prompt": line.strip()}


def _table(text: str, path: Path) -> Found:
    reader = csv.DictReader(io.StringIO(text), dialect="excel-tab" if path.suffix.lower() == ".tsv" else "excel")
    columns = [str(name).lower() for name in reader.fieldnames or ()]
    if not any(key in columns for key in PROMPT_KEYS):
        raise ConfigError(f"'{path}' has no column called {', '.join(PROMPT_KEYS)}; it has: {', '.join(columns)}")
    try:
        for row in reader:
            yield f"line {reader.line_num}", {str(key).lower(): value for key, value in row.items()}
    except csv.Error as error:
        yield f"line {reader.line_num}", f"not a table from here on ({error})"


def _jsonl(text: str, path: Path) -> Found:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found = json.loads(line)
            except json.JSONDecodeError as error:
                yield f"line {number}", f"not valid JSON ({error.msg})"
            else:
                yield f"line {number}", _object(found)


def _json(text: str, path: Path) -> Found:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"'{path}' is not valid JSON ({error}); the file may be truncated") from error
    if isinstance(data, dict) and isinstance(data.get("annotations"), list):
        yield from _coco(data["annotations"])
    elif isinstance(data, dict):
        for name, found in data.items():
            known = _object(found)
            yield f"entry '{name}'", known if isinstance(known, str) else {"id": name, **known}
    elif isinstance(data, list):
        for number, found in enumerate(data):
            yield f"entry {number}", _object(found)
    else:
        raise ConfigError(f"'{path}' is neither a list nor an object of prompts")


def _coco(annotations: Sequence[Any]) -> Found:
    """The first usable caption of each image, images by number."""
    first: dict[Any, dict[str, Any]] = {}
    for number, found in enumerate(annotations):
        if not isinstance(found, dict) or not isinstance(found.get("image_id"), int) or "caption" not in found:
            yield f"annotation {number}", "no caption with an image_id"
        elif isinstance(item := _item(found, number), str):
            yield f"annotation {number}", item
        elif found["image_id"] not in first:
            first[found["image_id"]] = {"caption": found["caption"], "id": found["image_id"]}
    for name in sorted(first):
        yield f"image {name}", first[name]


def _object(found: Any) -> "dict[str, Any] | str":
    if isinstance(found, str):
        return {"prompt": found}
    if isinstance(found, dict):
        return {str(key).lower(): value for key, value in found.items()}
    return f"wanted an object or a text, found {type(found).__name__}"


def _item(found: dict[str, Any], number: int) -> Item | str:
    """An item, or why there is none."""
    prompt = next((found[key] for key in PROMPT_KEYS if found.get(key) is not None), None)
    if not isinstance(prompt, str) or not prompt.strip():
        return "no prompt"
    if NOT_TEXT.search(prompt):
        return "control characters, or not UTF-8"
    category = next((found[key] for key in CATEGORY_KEYS if found.get(key)), ())
    categories = [category] if isinstance(category, str) else category
    if not isinstance(categories, list | tuple) or not all(isinstance(each, str) for each in categories):
        return "its category is no text"
    name = str(next((found[key] for key in NAME_KEYS if found.get(key) is not None), ""))
    return Item(
        name=name if FILE_NAME.fullmatch(name) else f"{number:06}",
        prompt=" ".join(prompt.split()),
        categories=tuple(dict.fromkeys(each.strip() for each in categories if each.strip())),
    )
