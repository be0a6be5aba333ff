"""What the embedded pipelines are trained on: concepts, their captions, and who is held out.

A *concept* is one emoji ("red apple"), whatever the drawing style. The split is by concept and by hash, so it
does not move when categories or styles are added: a concept that is held out is held out everywhere.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SPLIT_SALT = "dit-accel-split-1"
HELD_OUT_PERCENT = 10
PLURAL_EXCEPTIONS = ("ss", "us", "os", "is")
TEMPLATES = ("{phrase}", "{name}", "an emoji of {phrase}", "a picture of {phrase}")
TEMPLATE_WEIGHTS = (0.5, 0.2, 0.15, 0.15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """One emoji and what it may be called.

    Attributes:
        code: Code points as in the image file name, for example ``"1f34e"``.
        name: Lower-case name, for example ``"red apple"``; unique in the data.
        aliases: Other names that mean this concept and no other, for example ``("apple",)``.
        category: The data set's category, for example ``"Food & Drink"``.
    """

    code: str
    name: str
    aliases: tuple[str, ...]
    category: str


def is_held_out(name: str) -> bool:
    """Say whether the concept called ``name`` belongs to the test tenth (by hash, for ever the same)."""
    digest = hashlib.sha256(f"{SPLIT_SALT}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


def split_concepts(concepts: Sequence[Concept]) -> tuple[list[Concept], list[Concept]]:
    """Split into training and held-out concepts, each in the order given."""
    train = [concept for concept in concepts if not is_held_out(concept.name)]
    held_out = [concept for concept in concepts if is_held_out(concept.name)]
    return train, held_out


def with_article(name: str) -> str:
    """Return ``"a red apple"``, ``"an owl"``, but ``"grapes"``: plurals take no article.

    A rule of thumb, not grammar ("a bacon"): training and prompts use the same rule, which is what matters.
    """
    head = name.split(" of ")[0].split(" with ")[0].split(" and ")[0]
    if head.endswith("s") and not head.endswith(PLURAL_EXCEPTIONS):
        return name
    return f"{'an' if name[0] in 'aeiou' and not name.startswith('uni') else 'a'} {name}"


def caption(name: str, *, template: str = TEMPLATES[0], style: str | None = None) -> str:
    """Fill a caption template; the first template is the canonical caption, ``"a red apple"``.

    Args:
        name: A concept's name or alias.
        template: One of ``TEMPLATES``.
        style: Style words appended after a comma, for example ``"3d style"``; ``None`` adds nothing.
    """
    text = template.format(name=name, phrase=with_article(name))
    return f"{text}, {style}" if style else text


def concepts_from_emoji_json(records: Iterable[dict[str, object]], categories: Sequence[str]) -> list[Concept]:
    """Read concepts from the ``emoji.json`` of an emoji-datasource package.

    Args:
        records: The parsed list.
        categories: Categories to keep, for example ``("Animals & Nature", "Food & Drink")``; empty keeps all.

    Returns:
        Concepts sorted by code, so that the order does not depend on the file's. Of two with one name ("man in
        tuxedo", outside animals and foods) the first is kept.
    """
    kept = [record for record in records if not categories or record["category"] in categories]
    names = {clean_name(str(record["name"])) for record in kept}
    concepts: dict[str, Concept] = {}
    for record in sorted(kept, key=lambda record: str(record["unified"])):
        name = clean_name(str(record["name"]))
        short_names = record["short_names"]
        assert isinstance(short_names, list)
        aliases = {clean_name(str(short)) for short in short_names} - names
        concept = Concept(
            code=str(record["image"]).removesuffix(".png"),
            name=name,
            aliases=tuple(sorted(alias for alias in aliases if not re.search(r"\d", alias))),
            category=str(record["category"]),
        )
        concepts.setdefault(name, concept)
    return list(concepts.values())


def clean_name(name: str) -> str:
    """Lower-case, with spaces for underscores and hyphens, without other signs."""
    return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9 ]", "", re.sub(r"[_\-]", " ", name.lower()))).strip()
