"""What diffusers' tests load from the model hub, made on the spot: tiny random models, tokenizers and processors."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin
from transformers.processing_utils import ProcessorMixin

from breadth.words import CHAT, LLAMA, QWEN, Alphabet, TokenizerWithPositions, alphabet_of, make_tokenizer

_LOADERS: tuple[Any, ...] = (
    transformers.PreTrainedModel,
    transformers.PreTrainedTokenizerBase,
    transformers.AutoTokenizer,
    transformers.AutoConfig,
    transformers.AutoProcessor,
    ProcessorMixin,
    FeatureExtractionMixin,
    ImageProcessingMixin,
    diffusers.ModelMixin,
)


class CannotStandInError(Exception):
    """Nothing here can stand in for what a test wants to load."""


_corpus = [""]


@contextmanager
def offline_stand_ins(corpus: str) -> Iterator[None]:
    """While this lasts, ``from_pretrained`` of a name that is no folder makes a tiny stand-in.

    Args:
        corpus: What tokenizers are to have words for.
    """
    with ExitStack() as stack:
        _corpus.append(corpus)
        stack.callback(_corpus.pop)
        for loader in _LOADERS:
            own = loader.__dict__.get("from_pretrained")
            if own is not None:
                stack.enter_context(mock.patch.object(loader, "from_pretrained", _loader(own)))
        yield


def _loader(own: Any) -> Any:
    def from_pretrained(cls: type, source: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(str(source)).is_dir():
            return own.__get__(None, cls)(source, *args, **kwargs)
        return stand_in(cls, str(source), **kwargs)

    return classmethod(from_pretrained)


def stand_in(cls: type, source: str, **kwargs: Any) -> Any:
    """A tiny random object of a class that would be loaded from ``source``.

    Raises:
        CannotStandInError: There is no recipe for it.
    """
    for key in ("subfolder", "torch_dtype", "trust_remote_code", "cache_dir", "truncation"):
        kwargs.pop(key, None)
    if issubclass(cls, transformers.PreTrainedTokenizerBase) or cls is transformers.AutoTokenizer:
        if cls.__name__ == "ChatGLMTokenizer":
            return make_tokenizer(LLAMA, _corpus[-1], TokenizerWithPositions, padding_side="left")
        return make_tokenizer(alphabet_of(cls.__name__, source), _corpus[-1], cls, **kwargs)
    if cls is transformers.AutoConfig:
        return _t5_config()
    if cls is transformers.AutoProcessor:
        cls = transformers.PixtralProcessor if "Mistral" in source else transformers.Qwen2VLProcessor
    recipe = _RECIPES.get(cls.__name__)
    if recipe is None:
        raise CannotStandInError(f"nothing stands in for {cls.__name__} of '{source}'")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = recipe(cls, **kwargs)
    return made.eval() if isinstance(made, torch.nn.Module) else made


def _t5_config() -> transformers.T5Config:
    return transformers.T5Config(
        vocab_size=1103, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, relative_attention_num_buckets=8
    )


def _t5(cls: Any) -> Any:
    return cls(_t5_config())


def _umt5(cls: Any) -> Any:
    return cls(transformers.UMT5Config(vocab_size=1103, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4))


def _bert(cls: Any) -> Any:
    return cls(
        transformers.BertConfig(
            vocab_size=1124, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37
        )
    )


_SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}


def _llama(cls: Any) -> Any:
    return cls(transformers.LlamaConfig(vocab_size=1000, hidden_size=16, **_SMALL))


def _gemma3(cls: Any) -> Any:
    text = {"vocab_size": 1000, "hidden_size": 32, "head_dim": 8, "sliding_window": 64, **_SMALL}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision |= {"image_size": 28, "patch_size": 14}
    return cls(transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))


def _qwen_text() -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 10000.0}
    return {"vocab_size": 152064, "hidden_size": 16, "rope_scaling": rope, "rope_parameters": rope, **_SMALL}


def _qwen2_vl(cls: Any) -> Any:
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 14}
    return cls(transformers.Qwen2VLConfig(text_config=_qwen_text(), vision_config=vision))


def _qwen3_vl(cls: Any) -> Any:
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16}
    vision |= {"patch_size": 14, "deepstack_visual_indexes": [0], "num_position_embeddings": 2304}
    config = transformers.Qwen3VLConfig(text_config={**_qwen_text(), "head_dim": 4}, vision_config=vision)
    return cls(config)


def _qwen_processor(cls: Any, **settings: Any) -> Any:
    tokenizer = make_tokenizer(QWEN, _corpus[-1])
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    pictures = transformers.Qwen2VLImageProcessor(size=size, patch_size=14, merge_size=2, temporal_patch_size=2)
    videos = (
        transformers.Qwen3VLVideoProcessor if cls.__name__.startswith("Qwen3") else transformers.Qwen2VLVideoProcessor
    )
    return cls(pictures, tokenizer, videos(), chat_template=CHAT)


def _pixtral_processor(cls: Any, **settings: Any) -> Any:
    return cls(transformers.PixtralImageProcessor(), make_tokenizer(LLAMA, _corpus[-1]), chat_template=CHAT)


def _siglip(cls: Any) -> Any:
    return cls(
        transformers.SiglipVisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=37,
            image_size=30,
            patch_size=2,
        )
    )


def _chat_glm(cls: Any) -> Any:
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    return cls(
        ChatGLMConfig(
            num_layers=2, padded_vocab_size=1000, hidden_size=8, ffn_hidden_size=32, kv_channels=2,
            num_attention_heads=4, seq_length=256, multi_query_attention=True, multi_query_group_num=2,
            add_bias_linear=False, add_qkv_bias=True, rmsnorm=True, apply_residual_connection_post_layernorm=False,
            original_rope=True,
        )
    )  # fmt: skip


def _unet(cls: Any) -> Any:
    return cls(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"), resnet_time_scale_shift="scale_shift",
        num_train_timesteps=40, attention_head_dim=8,
    )  # fmt: skip


def _dpt(cls: Any) -> Any:
    return cls(size={"height": 32, "width": 32})


_GLM = Alphabet(
    pad="<|endoftext|>", eos="<|user|>", bos="<|dit_token_16384|>", adds_eos=False,
    fixed=(("<|image|>", 167855), ("<sop>", 167856), ("<eop>", 167857), ("<|endoftext|>", 167858)),
)  # fmt: skip


def _glm_processor(cls: Any) -> Any:
    named = {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"}
    tokenizer = make_tokenizer(_GLM, _corpus[-1], extra_special_tokens=named)
    return cls(transformers.GlmImageImageProcessor(patch_size=8), tokenizer, chat_template=CHAT)


def _plain(cls: Any, **settings: Any) -> Any:
    return cls(**settings)


_RECIPES: dict[str, Callable[..., Any]] = {
    "T5EncoderModel": _t5,
    "UMT5EncoderModel": _umt5,
    "BertModel": _bert,
    "LlamaForCausalLM": _llama,
    "Gemma3ForConditionalGeneration": _gemma3,
    "Qwen2VLForConditionalGeneration": _qwen2_vl,
    "Qwen3VLForConditionalGeneration": _qwen3_vl,
    "Qwen2VLProcessor": _qwen_processor,
    "Qwen3VLProcessor": _qwen_processor,
    "PixtralProcessor": _pixtral_processor,
    "SiglipVisionModel": _siglip,
    "SiglipImageProcessor": _plain,
    "DPTImageProcessor": _dpt,
    "ClapFeatureExtractor": _plain,
    "GlmImageProcessor": _glm_processor,
    "ChatGLMModel": _chat_glm,
    "UNet2DModel": _unet,
}
