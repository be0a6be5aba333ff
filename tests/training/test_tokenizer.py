"""The tokenizer knows its words, survives others, and reloads the same."""

from pathlib import Path

from transformers import T5Tokenizer

from dit_accel.training.tokenizer import build_tokenizer

CAPTIONS = ["a red apple", "an owl", "an emoji of a red apple", "grapes, flat style"]


def test_known_words_are_one_piece_each() -> None:
    tokenizer = build_tokenizer(CAPTIONS)
    for text in CAPTIONS:
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text.replace(",", " ,").split()) + 1
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_unknown_words_become_letters_and_never_merge_words() -> None:
    tokenizer = build_tokenizer(CAPTIONS)
    ids = tokenizer("a zebra").input_ids
    assert len(ids) == 1 + 1 + len("zebra") + 1
    assert tokenizer.unk_token_id not in ids


def test_special_ids_are_those_of_t5_and_empty_text_is_only_the_end() -> None:
    tokenizer = build_tokenizer(CAPTIONS)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer("").input_ids == [1]


def test_save_and_load(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(CAPTIONS)
    tokenizer.save_pretrained(tmp_path)
    again = T5Tokenizer.from_pretrained(tmp_path)
    assert len(again) == len(tokenizer)
    for text in (*CAPTIONS, "a big red zebra!"):
        assert again(text).input_ids == tokenizer(text).input_ids
