"""A small T5 tokenizer made from the training captions.

T5 uses a unigram model over pieces. With a few hundred captions there is nothing to estimate, so the pieces are
stated: every word of the captions is one piece, scored by its log frequency, and every letter is a piece with a score
so low that it is used only for words never seen. The result is a plain ``T5Tokenizer`` that diffusers loads.
"""

import math
import string
from collections import Counter
from collections.abc import Iterable

from transformers import T5Tokenizer

WORD_START = "▁"
LETTER_SCORE = -30.0
SIGNS = string.ascii_lowercase + string.digits + ",.'-"


def build_tokenizer(captions: Iterable[str], *, max_length: int = 120) -> T5Tokenizer:
    """Make the tokenizer.

    Args:
        captions: Lower-case training captions (never the held-out ones).
        max_length: ``model_max_length``; ``PixArtAlphaPipeline`` pads to 120 by default.

    Returns:
        A tokenizer with ``<pad>`` 0, ``</s>`` 1, ``<unk>`` 2, then words by falling frequency, then letters.
    """
    counts: Counter[str] = Counter()
    for text in captions:
        counts.update(text.replace(",", " ,").split())
    total = sum(counts.values())
    words = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", LETTER_SCORE * 2)]
    vocab += [(_piece(word), math.log(count / total)) for word, count in words]
    known = {piece for piece, _ in vocab}
    vocab += [(piece, LETTER_SCORE) for piece in (WORD_START, *SIGNS) if piece not in known]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=max_length)


def _piece(word: str) -> str:
    """The comma of a style suffix follows a word directly, so its piece carries no word start."""
    return word if word == "," else WORD_START + word
