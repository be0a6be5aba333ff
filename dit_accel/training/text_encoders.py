"""Untrained text encoders of the sizes that the embedded pipelines use."""

from typing import Any

from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)


def build_t5(tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]) -> T5EncoderModel:
    """Make an untrained T5 encoder for the tokenizer; ``config`` holds ``T5Config`` fields."""
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), dropout_rate=0.0, pad_token_id=0, eos_token_id=1, **config)
    )


def build_umt5(tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]) -> UMT5EncoderModel:
    """Make an untrained UMT5 encoder for the tokenizer; ``config`` holds ``UMT5Config`` fields."""
    return UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), dropout_rate=0.0, pad_token_id=0, eos_token_id=1, **config)
    )


def build_clip(tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]) -> CLIPTextModel:
    """Make an untrained CLIP text encoder for the tokenizer; ``config`` holds ``CLIPTextConfig`` fields."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **config,
        )
    )
