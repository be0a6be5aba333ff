"""A small CLIP tokenizer, learnt from the training captions: byte-pair encoding with BOS and EOS, as SD's is."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MAX_PIECES = 4000
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.'-"


def build_clip_tokenizer(captions: Iterable[str], *, max_length: int) -> CLIPTokenizer:
    """Learn merges until every word of the captions is one piece.

    Args:
        captions: Lower-case training captions (never the held-out ones).
        max_length: ``model_max_length``; Stable Diffusion pads to it.

    Returns:
        A tokenizer that pads with EOS, as the one of Stable Diffusion 1 does.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_PIECES,
        min_frequency=1,
        end_of_word_suffix=WORD_END,
        initial_alphabet=list(LETTERS),
        show_progress=False,
    )
    # Sorted, each once: equal counts are decided by order, and a file must not change with the order of the images.
    learner.train_from_iterator(sorted(set(captions)), trainer)
    merges = _merges(learner)
    pieces = sorted({*LETTERS, *(letter + WORD_END for letter in LETTERS)}) + ["".join(pair) for pair in merges]
    vocab = {piece: k for k, piece in enumerate(dict.fromkeys([*pieces, BOS, EOS]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
