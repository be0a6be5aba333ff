"""Tokenizers made on the spot: they spell, so that any prompt has tokens and equal prompts have equal ones."""

from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

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
_CLASSES = ("[a-gA-G]", "[h-nH-N]", "[o-uO-U]", "[^abc]")

CLIP = Alphabet(pad="<|endoftext|>", bos="<|startoftext|>", eos="<|endoftext|>", max_length=77, specials_last=True)
T5 = Alphabet(pad="<pad>", eos="</s>", unknown="<unk>")
BERT = Alphabet(pad="[PAD]", bos="[CLS]", eos="[SEP]", unknown="[UNK]")
LLAMA = Alphabet(pad="<pad>", bos="<s>", eos="</s>", unknown="<unk>", adds_eos=False)
GEMMA = Alphabet(pad="<pad>", bos="<bos>", eos="<eos>", unknown="<unk>", adds_eos=False, letters=4)
QWEN = Alphabet(pad="<|endoftext|>", eos="<|im_end|>", adds_eos=False, fixed=QWEN_IDS)


def alphabet_of(name: str, source: str) -> Alphabet:
    """The alphabet for a tokenizer class and the repository that it would be loaded from."""
    said = f"{name} {source}".lower()
    for word, alphabet in (
        ("clip", CLIP), ("t5", T5), ("roberta", T5), ("bert", BERT), ("gemma", GEMMA), ("qwen", QWEN),
        ("cosmos3", QWEN),
    ):  # fmt: skip
        if word in said:
            return alphabet
    return LLAMA


def make_tokenizer(alphabet: Alphabet, **settings: Any) -> PreTrainedTokenizerBase:
    """A tokenizer of this alphabet.

    Args:
        alphabet: See :class:`Alphabet`.
        settings: Of the tokenizer, as ``from_pretrained`` would take them.
    """
    named = (alphabet.pad, alphabet.eos, alphabet.bos, alphabet.unknown)
    specials = list(dict.fromkeys([token for token in named if token] + [token for token, _ in alphabet.fixed]))
    letters = list(_LETTERS) if alphabet.letters else sorted(pre_tokenizers.ByteLevel.alphabet())
    fixed = dict(alphabet.fixed)
    free = [token for token in [*specials, *letters] if token not in fixed]
    if alphabet.specials_last:
        free.reverse()
    vocabulary = {token: index for index, token in enumerate(free)} | fixed
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=alphabet.unknown))
    if alphabet.letters:
        steps = [
            normalizers.Replace(Regex(pattern), letter) for pattern, letter in zip(_CLASSES, _LETTERS, strict=True)
        ]
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
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **chosen)
