"""Prompt files of every kind, with lines that cannot be used: counted, named, and nothing else lost."""

import json
import re
from pathlib import Path

import pytest

from dit_accel.errors import ConfigError
from dit_accel.evaluation.suites.prompt_files import read_prompts, shipped_prompts

GOOD = ["a red apple", "an owl"]


def wrote(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CASES = {
    "lines.txt": (
        b"\xef\xbb\xbfa red apple\r\n\r\n\xff\xfe\nan owl\na\x00b\n",
        {"line 3": "UTF-8", "line 5": "control"},
    ),
    "parti.tsv": (
        "Prompt\tCategory\tChallenge\na red apple\tFood & Beverage\tBasic\n\tArts\tBasic\nan owl\tAnimals\tBasic\nx",
        {"line 3": "no prompt"},
    ),
    "table.csv": (
        'id,caption\n1,"a red apple"\n1,twice\n2,an owl\n3\n',
        {"line 3": "'1' is there twice", "line 5": "no p"},
    ),
    "list.jsonl": (
        '{"prompt": "a red apple"}\n{"prompt": \n"an owl"\n7\n{"prompt": "x", "category": 3}\n',
        {"line 2": "not valid JSON", "line 4": "found int", "line 5": "category is no text"},
    ),
    "vbench.json": (
        json.dumps(
            [{"prompt_en": "a red apple", "dimension": ["colour"]}, {"dimension": []}, {"prompt_en": "an owl"}]
        ),
        {"entry 1": "no prompt"},
    ),
    "meta_data.json": (
        json.dumps({"ab12": {"category": "food", "prompt": "a red apple"}, "c": 5, "d": {"prompt": "an owl"}}),
        {"entry 'c'": "found int"},
    ),
    "captions.json": (
        json.dumps(
            {
                "annotations": [
                    {"image_id": 9, "caption": "an owl"},
                    {"image_id": 4, "caption": " "},
                    {"image_id": 4, "caption": "a red  apple\n"},
                    {"image_id": 4, "caption": "another of the same"},
                    {"caption": "of nothing"},
                ]
            }
        ),
        {"annotation 1": "no prompt", "annotation 4": "image_id"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_good_lines_are_read_and_bad_ones_named(tmp_path: Path, name: str) -> None:
    content, bad = CASES[name]
    found = read_prompts(wrote(tmp_path / name, content))
    prompts = [item.prompt for item in found.items]
    assert prompts == GOOD + (["x"] if name == "parti.tsv" else [])
    assert found.source == name and not found.shipped
    assert {skipped.where for skipped in found.skipped} == {f"{name}, {place}" for place in bad}
    for skipped in found.skipped:
        assert bad[skipped.where.removeprefix(f"{name}, ")] in skipped.why


def test_names_and_categories(tmp_path: Path) -> None:
    def read(name: str) -> list[tuple[str, tuple[str, ...]]]:
        return [(item.name, item.categories) for item in read_prompts(wrote(tmp_path / name, CASES[name][0])).items]

    assert read("meta_data.json") == [("ab12", ("food",)), ("d", ())]
    assert read("captions.json") == [("4", ()), ("9", ())]
    assert read("parti.tsv")[:2] == [("000000", ("Food & Beverage",)), ("000002", ("Animals",))]
    assert read("vbench.json") == [("000000", ("colour",)), ("000002", ())]
    dangerous = json.dumps({"../../etc": {"prompt": "a"}, "x" * 300: {"prompt": "b"}, ".": {"prompt": "c"}})
    assert [item.name for item in read_prompts(wrote(tmp_path / "d.json", dangerous)).items] == [
        "000000",
        "000001",
        "000002",
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", "\n \n", "holds no usable prompt, and 0 that are not"),
        ("bad.txt", b"\xff\n\xff\n", "2 that are not; the first: bad.txt, line 1: control characters"),
        ("cut.json", '[{"prompt": "a', "not valid JSON"),
        ("number.json", "7", "neither a list nor an object"),
        ("columns.tsv", "a\tb\n1\t2\n", "no column called prompt, caption, text, prompt_en; it has: a, b"),
    ],
)
def test_files_of_no_use(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        read_prompts(wrote(tmp_path / name, content))
    assert name in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read prompts"):
        read_prompts(tmp_path / "nowhere.txt")


def test_selecting(tmp_path: Path) -> None:
    found = read_prompts(wrote(tmp_path / "p.txt", "\n".join(f"prompt {k}" for k in range(20))))
    first = found.select(3, per_prompt=2, seed=5, shuffled=False)
    assert [(item.name, item.seed) for item in first][:3] == [("000000-0", 5), ("000000-1", 6), ("000001-0", 7)]
    drawn = found.select(8, per_prompt=1, seed=0, shuffled=True)
    assert drawn == found.select(8, per_prompt=1, seed=0, shuffled=True) and len({item.name for item in drawn}) == 8
    assert [item.prompt for item in drawn] != [f"prompt {k}" for k in range(8)]
    for num in (None, 99):
        assert len(found.select(num, per_prompt=1, seed=0, shuffled=True)) == 20


def test_shipped_lists() -> None:
    images, videos = shipped_prompts("image"), shipped_prompts("video")
    assert len(images.items) == len(videos.items) == 200 and images.shipped
    assert all(item.motion is None for item in images.items)
    assert all(item.motion is not None for item in videos.items)
