"""The prompt lists: ``search`` for tuning, ``certify`` for certificates only, ``demo`` for show; disjoint.

They were written by ``dit_accel.training.prompts`` (images) and ``dit_accel.training.video_prompts`` (video).
"""

import json
from dataclasses import dataclass
from importlib import resources

from dit_accel.errors import ConfigError, did_you_mean

__all__ = ["PROMPT_KINDS", "PROMPT_LISTS", "PromptList", "load_prompts"]

PROMPT_KINDS = ("image", "video")
PROMPT_LISTS = ("search", "certify", "demo")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptList:
    """A versioned list of prompts.

    Attributes:
        name: One of ``PROMPT_LISTS``.
        kind: One of ``PROMPT_KINDS``.
        version: Grows whenever a prompt changes.
        note: What the list is for.
        prompts: The prompts, each once.
        labels: What each prompt shows, by key, each list as long as ``prompts``: ``"concepts"`` and ``"heldout"`` for
            images, ``"subjects"``, ``"directions"`` and ``"scales"`` for video.
    """

    name: str
    kind: str
    version: int
    note: str
    prompts: tuple[str, ...]
    labels: dict[str, tuple[str | bool, ...]]


def load_prompts(name: str, kind: str = "image") -> PromptList:
    """Read a list that ships with the library.

    Args:
        name: ``"search"``, ``"certify"`` or ``"demo"``.
        kind: ``"image"`` or ``"video"``.

    Raises:
        ConfigError: There is no such list, or this installation has none of that kind.
    """
    for value, known in ((name, PROMPT_LISTS), (kind, PROMPT_KINDS)):
        if value not in known:
            raise ConfigError(f"No prompt list '{value}'; known: {', '.join(known)}.{did_you_mean(value, known)}")
    file = resources.files("dit_accel") / "prompts" / kind / f"{name}.json"
    if not file.is_file():
        raise ConfigError(f"this installation ships no '{name}' prompts of kind '{kind}'; give prompts of your own.")
    content = json.loads(file.read_text(encoding="utf-8"))
    known_keys = ("version", "kind", "note", "prompts")
    return PromptList(
        name=name,
        kind=kind,
        version=content["version"],
        note=content["note"],
        prompts=tuple(content["prompts"]),
        labels={key: tuple(values) for key, values in content.items() if key not in known_keys},
    )
