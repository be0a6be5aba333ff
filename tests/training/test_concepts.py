"""The split and the captions do not move."""

import pytest

from dit_accel.errors import ConfigError
from dit_accel.training.captions import caption_rows
from dit_accel.training.concepts import Concept, caption, concepts_from_emoji_json, is_held_out, split_concepts
from dit_accel.training.prompts import prompt_lists


def concept(name: str, *aliases: str) -> Concept:
    return Concept(code=name, name=name, aliases=aliases, category="Food & Drink")


def test_split_is_by_hash_and_disjoint() -> None:
    concepts = [concept(f"thing {k}") for k in range(1000)]
    train, held_out = split_concepts(concepts)
    assert not {c.name for c in train} & {c.name for c in held_out}
    assert len(train) + len(held_out) == 1000
    assert 60 < len(held_out) < 140
    assert split_concepts(list(reversed(concepts)))[1] == list(reversed(held_out)), "order must not matter"


@pytest.mark.parametrize("name", ["tomato", "tiger", "dolphin", "butterfly"])
def test_known_held_out_concepts_stay_held_out(name: str) -> None:
    assert is_held_out(name)


@pytest.mark.parametrize("name", ["red apple", "frog face", "penguin", "banana"])
def test_known_training_concepts_stay_training_concepts(name: str) -> None:
    assert not is_held_out(name)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("red apple", "a red apple"),
        ("octopus", "an octopus"),
        ("paw prints", "paw prints"),
        ("glass of milk", "a glass of milk"),
        ("unicorn face", "a unicorn face"),
    ],
)
def test_caption_article(name: str, wanted: str) -> None:
    assert caption(name) == wanted
    assert caption(name, style="3d style") == f"{wanted}, 3d style"


def test_aliases_that_name_another_concept_are_dropped() -> None:
    records = [
        {"name": "DOG FACE", "unified": "1F436", "image": "1f436.png", "short_names": ["dog"], "category": "A"},
        {"name": "DOG", "unified": "1F415", "image": "1f415.png", "short_names": ["dog2"], "category": "A"},
        {"name": "HOT BEVERAGE", "unified": "2615", "image": "2615.png", "short_names": ["coffee"], "category": "F"},
    ]
    concepts = concepts_from_emoji_json(records, ["A", "F"])
    assert [(c.name, c.aliases) for c in concepts] == [("dog", ()), ("dog face", ()), ("hot beverage", ("coffee",))]
    assert concepts_from_emoji_json(records, ["F"])[0].code == "2615"


def test_every_image_is_drawn_equally_often() -> None:
    rows = caption_rows([concept("red apple", "apple"), concept("egg")])
    assert float(rows.weight.sum()) == pytest.approx(1)
    assert float(rows.weight[rows.image == 0].sum()) == pytest.approx(0.5)
    assert "an apple" in rows.texts


def test_prompt_lists_are_disjoint_by_concept() -> None:
    concepts = [concept(f"thing {k}") for k in range(300)]
    demo = [c.name for c in split_concepts(concepts)[0][:12]]
    lists = prompt_lists(concepts, demo)
    owners = [set(content["concepts"]) for content in lists.values()]
    assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
    assert len(lists["certify"]["prompts"]) >= 200 and len(lists["search"]["prompts"]) >= 100
    for content in lists.values():
        assert len(content["prompts"]) == len(content["concepts"]) == len(content["heldout"])
    assert not any(lists["demo"]["heldout"])
    with pytest.raises(ConfigError, match="held out"):
        prompt_lists(concepts, [split_concepts(concepts)[1][0].name])
