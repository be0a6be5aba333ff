"""Writes the prompt lists of the emoji pipelines: search, certify, demo. Disjoint by concept, not only by wording.

Where held-out concepts are only a tenth, certifying on them alone would leave some thirty prompts. So the lists
share out *all* concepts, by hash: what is tuned on ``search`` is certified on concepts that ``search`` does not
contain, most of them concepts the pipeline was trained on. Each prompt says whether the pipeline was trained on its
concept: ``heldout``. For comparing an accelerated pipeline with the plain one that is the right kind of disjoint; for
claims about what the pipeline itself can draw, use the prompts with ``heldout`` true.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.training.concepts import Concept, caption, is_held_out

PROMPTS_VERSION = 1
PROMPTS_SALT = "dit-accel-prompts-1"
CERTIFY_CONCEPTS = 200
# A wording that training never used, made of words it did.
NEW_WORDING = "{phrase} emoji"

NOTES = {
    "search": "For tuning schedules and thresholds. Two wordings a concept; the second was not used in training.",
    "certify": "For certificates only; never tune on these. One canonical caption a concept.",
    "demo": "For demonstrations: concepts the pipeline was trained on and draws well, chosen by eye.",
}


def prompt_lists(concepts: Sequence[Concept], demo: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Share the concepts out.

    Args:
        concepts: All concepts, training and held out.
        demo: Names of training concepts for the demo list.

    Returns:
        The lists ``search``, ``certify`` and ``demo``, JSON-ready; ``concepts`` and ``heldout`` run along ``prompts``.

    Raises:
        ConfigError: A demo concept is unknown or held out, or there are too few concepts.
    """
    known = {concept.name for concept in concepts}
    for name in demo:
        if name not in known or is_held_out(name):
            raise ConfigError(f"Demo concept '{name}' is {'held out' if name in known else 'unknown'}.")
    rest = sorted(known - set(demo), key=lambda name: hashlib.sha256(f"{PROMPTS_SALT}:{name}".encode()).hexdigest())
    if len(rest) <= CERTIFY_CONCEPTS:
        raise ConfigError(f"Want more than {CERTIFY_CONCEPTS} concepts besides the demo's, got {len(rest)}.")
    pairs = {
        "search": [(name, text) for name in rest[CERTIFY_CONCEPTS:] for text in (caption(name), _new(name))],
        "certify": [(name, caption(name)) for name in rest[:CERTIFY_CONCEPTS]],
        "demo": [(name, caption(name)) for name in demo],
    }
    return {
        list_name: {
            "version": PROMPTS_VERSION,
            "kind": "image",
            "note": NOTES[list_name],
            "prompts": [text for _, text in items],
            "concepts": [name for name, _ in items],
            "heldout": [is_held_out(name) for name, _ in items],
        }
        for list_name, items in pairs.items()
    }


def write_prompt_lists(lists: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write each list to ``<folder>/<name>.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in lists.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _new(name: str) -> str:
    return caption(name, template=NEW_WORDING)
