"""Tokenizers made on the spot, of byte pairs, so that any prompt has tokens and equal prompts have equal ones."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part.text is defined %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphabet:
    """What a family of tokenizers has besides letters.

    Attributes:
        pad: Fills up.
        eos: Ends.
        bos: Begins; ``None``: nothing is put in front.
        unknown: Stands for what is not known.
        adds_eos: Whether every prompt is ended.
        fixed: Ids that the models of the family are configured with.
        max_length: Tokens of a prompt.
        pieces: How many words and parts of words it knows; most models of the tests know a thousand.
        letters: How many letters it tells apart; 0: all.
        specials_last: Whether the special tokens have the highest ids: CLIP takes the highest for the end.
    """

    pad: str
    eos: str
    bos: str | None = None
    unknown: str | None = None
    adds_eos: bool = True
    fixed: tuple[tuple[str, int], ...] = ()
    max_length: int = 512
    pieces: int = 640
    letters: int = 0
    specials_last: bool = False


QWEN_IDS = (
    ("<|endoftext|>", 151643),
    ("<|im_start|>", 151644),
    ("<|im_end|>", 151645),
    ("<|vision_start|>", 151652),
    ("<|vision_end|>", 151653),
    ("<|vision_pad|>", 151654),
    ("<|image_pad|>", 151655),
    ("<|video_pad|>", 151656),
)
_LETTERS = "abcd"
_CLASSES = (("[a-gA-G]", "a"), ("[h-nH-N]", "b"), ("[o-uO-U]", "c"), ("[^abc]", "d"))

CLIP = Alphabet(pad="<|endoftext|>", bos="<|startoftext|>", eos="<|endoftext|>", max_length=77, specials_last=True)
T5 = Alphabet(pad="<pad>", eos="</s>", unknown="<unk>")
BERT = Alphabet(pad="[PAD]", bos="[CLS]", eos="[SEP]", unknown="[UNK]")
LLAMA = Alphabet(pad="<pad>", bos="<s>", eos="</s>", unknown="<unk>", adds_eos=False)
GEMMA = Alphabet(pad="<pad>", bos="<bos>", eos="<eos>", unknown="<unk>", adds_eos=False)
FEW = Alphabet(pad="<pad>", bos="<bos>", eos="<eos>", unknown="<unk>", adds_eos=False, letters=4)  # eight in all
QWEN = Alphabet(pad="<|endoftext|>", eos="<|im_end|>", adds_eos=False, fixed=QWEN_IDS, pieces=2000)


_ALPHABETS = (
    ("clip", CLIP), ("t5", T5), ("roberta", T5), ("bert", BERT), ("dummy-gemma", FEW), ("gemma", GEMMA),
    ("qwen", QWEN), ("cosmos3", QWEN),
)  # fmt: skip


def alphabet_of(name: str, source: str) -> Alphabet:
    """The alphabet for a tokenizer class and the repository that it would be loaded from."""
    said = f"{name} {source}".lower()
    for word, alphabet in _ALPHABETS:
        if word in said:
            return alphabet
    return LLAMA


def make_tokenizer(alphabet: Alphabet, corpus: str, cls: type = PreTrainedTokenizerFast, **settings: Any) -> Any:
    """A tokenizer of this alphabet.

    Args:
        alphabet: See :class:`Alphabet`.
        corpus: Text whose frequent words are to be one token each: pipelines count on the length of their templates.
        cls: The class that it is to be an instance of.
        settings: Of the tokenizer, as ``from_pretrained`` would take them.
    """
    named = (alphabet.pad, alphabet.eos, alphabet.bos, alphabet.unknown)
    specials = list(dict.fromkeys([token for token in named if token] + [token for token, _ in alphabet.fixed]))
    pieces, merges = (list(_LETTERS), []) if alphabet.letters else _learned(corpus, alphabet.pieces)
    fixed = dict(alphabet.fixed)
    free = [token for token in [*specials, *pieces] if token not in fixed]
    if alphabet.specials_last:
        free.reverse()
    vocabulary = {token: index for index, token in enumerate(free)} | fixed
    # No gaps: some models are made with as many embeddings as the tokenizer has tokens.
    taken = set(vocabulary.values())
    vocabulary |= {f"<unused{index}>": index for index in range(max(taken)) if index not in taken}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=alphabet.unknown))
    if alphabet.letters:
        steps = [normalizers.Replace(Regex(pattern), letter) for pattern, letter in _CLASSES]
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    parts = ([alphabet.bos] if alphabet.bos else []) + ["$A"] + ([alphabet.eos] if alphabet.adds_eos else [])
    used = [(token, vocabulary[token]) for token in parts if token in vocabulary]
    if used:
        tokenizer.post_processor = processors.TemplateProcessing(single=" ".join(parts), special_tokens=used)
    chosen = {
        "pad_token": alphabet.pad, "eos_token": alphabet.eos, "bos_token": alphabet.bos, "unk_token": alphabet.unknown,
        "model_max_length": alphabet.max_length, "chat_template": CHAT,
        "additional_special_tokens": [token for token, _ in alphabet.fixed],
        **settings,
    }  # fmt: skip
    if not issubclass(cls, PreTrainedTokenizerFast):
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **chosen)
    made = cls.__new__(cls)
    PreTrainedTokenizerFast.__init__(made, tokenizer_object=tokenizer, **chosen)
    return made


@lru_cache(maxsize=4)
def _learned(corpus: str, count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Byte pairs of a text: the pieces by frequency, and what was merged to get them."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=count, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator(corpus.splitlines(), trainer)
    model = json.loads(learner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [tuple(merge) for merge in model["merges"]]


class TokenizerWithPositions(PreTrainedTokenizerFast):
    """ChatGLM's says where each token stands."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        encoded = super().__call__(*args, **kwargs)
        mask = encoded["attention_mask"]
        if isinstance(mask, torch.Tensor):
            encoded["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return encoded
