"""What the tiny pipelines are called with: small sizes, the prompt as embeddings."""

from typing import Any

import torch
from PIL import Image
from tiny_configs import TEXT_TOKENS


def _randn(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


_SQUARE: dict[str, Any] = {"height": 64, "width": 64}


def _pair(*shape: int) -> dict[str, Any]:
    return {"prompt_embeds": _randn(*shape), "negative_prompt_embeds": _randn(*shape, seed=8)}


def pixart_call() -> dict[str, Any]:
    masks = {
        "prompt_attention_mask": torch.ones(1, TEXT_TOKENS),
        "negative_prompt_attention_mask": torch.ones(1, TEXT_TOKENS),
    }
    return {
        **_SQUARE,
        **_pair(1, TEXT_TOKENS, 12),
        **masks,
        "negative_prompt": None,
        "use_resolution_binning": False,
        "guidance_scale": 4.5,
    }


def sd_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 16), "guidance_scale": 5.0}


def sdxl_call() -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": _randn(1, 16), "negative_pooled_prompt_embeds": _randn(1, 16, seed=8)}
    return {**sd_call(), **pooled}


def sd3_call() -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": _randn(1, 10), "negative_pooled_prompt_embeds": _randn(1, 10, seed=8)}
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 12), **pooled, "guidance_scale": 5.0}


def flux_call() -> dict[str, Any]:
    return {
        **_SQUARE,
        "prompt_embeds": _randn(1, TEXT_TOKENS, 12),
        "pooled_prompt_embeds": _randn(1, 10),
        "guidance_scale": 3.5,
    }


def wan_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 16), "num_frames": 5, "guidance_scale": 5.0}


def dit_call() -> dict[str, Any]:
    return {"class_labels": [3], "guidance_scale": 4.0}


def _masks(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    ones = torch.ones(1, TEXT_TOKENS, dtype=dtype)
    return {"prompt_attention_mask": ones, "negative_prompt_attention_mask": ones.clone()}


def sana_call() -> dict[str, Any]:
    return {
        "height": 128,
        "width": 128,
        **_pair(1, TEXT_TOKENS, 12),
        **_masks(),
        "negative_prompt": None,
        "use_resolution_binning": False,
        "guidance_scale": 4.5,
    }


def ltx_call() -> dict[str, Any]:
    return {
        "height": 128,
        "width": 128,
        **_pair(1, TEXT_TOKENS, 12),
        **_masks(),
        "negative_prompt": None,
        "num_frames": 9,
        "guidance_scale": 3.0,
    }


def hunyuan_video_call() -> dict[str, Any]:
    return {
        **_SQUARE,
        "prompt_embeds": _randn(1, TEXT_TOKENS, 16),
        "prompt_attention_mask": torch.ones(1, TEXT_TOKENS, dtype=torch.long),
        "pooled_prompt_embeds": _randn(1, 8),
        "num_frames": 5,
    }


def qwen_image_call() -> dict[str, Any]:
    ones = torch.ones(1, TEXT_TOKENS, dtype=torch.long)
    masks = {"prompt_embeds_mask": ones, "negative_prompt_embeds_mask": ones.clone()}
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 12), **masks, "true_cfg_scale": 4.0}


def lumina2_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 16), **_masks(torch.bool), "guidance_scale": 4.0}


def z_image_call() -> dict[str, Any]:
    prompts = {"prompt_embeds": [_randn(TEXT_TOKENS, 16)], "negative_prompt_embeds": [_randn(TEXT_TOKENS, 16, seed=8)]}
    return {**_SQUARE, **prompts, "guidance_scale": 4.0}


def mochi_call() -> dict[str, Any]:
    return {
        **_SQUARE,
        **_pair(1, TEXT_TOKENS, 16),
        **_masks(torch.bool),
        "num_frames": 7,
        "guidance_scale": 4.5,
    }


def pictures(count: int, size: int, seed: int) -> list[Image.Image]:
    """Pictures of noise."""
    pixels = (255 * torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))).byte()
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def wan_animate_call() -> dict[str, Any]:
    call = wan_call()
    del call["num_frames"]
    return {
        **call,
        "image": pictures(1, 64, seed=1)[0],
        "pose_video": pictures(5, 64, seed=2),
        "face_video": pictures(5, 16, seed=3),
        "segment_frame_length": 5,
    }


def ltx2_call() -> dict[str, Any]:
    return {
        **ltx_call(),
        **_masks(torch.long),
        "height": 64,
        "width": 64,
        "num_frames": 3,
        "stg_scale": 0.0,
        "modality_scale": 1.0,
        "audio_stg_scale": 0.0,
        "audio_modality_scale": 1.0,
    }


def animatediff_call() -> dict[str, Any]:
    return {**sd_call(), "num_frames": 2}


def svd_call() -> dict[str, Any]:
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    return {**_SQUARE, "image": picture, "num_frames": 2, "max_guidance_scale": 3.0}


def kandinsky5_call() -> dict[str, Any]:
    call: dict[str, Any] = {**_SQUARE, "num_frames": 5, "guidance_scale": 5.0}
    for seed, sign in enumerate(("", "negative_")):
        call[f"{sign}prompt_embeds_qwen"] = _randn(1, TEXT_TOKENS, 16, seed=seed)
        call[f"{sign}prompt_embeds_clip"] = _randn(1, 8, seed=seed + 2)
        call[f"{sign}prompt_cu_seqlens"] = torch.tensor([0, TEXT_TOKENS], dtype=torch.int32)
    return call


def hunyuan_video15_call() -> dict[str, Any]:
    call: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 3}
    for seed, sign in enumerate(("", "negative_")):
        call[f"{sign}prompt_embeds"] = _randn(1, TEXT_TOKENS, 16, seed=seed)
        call[f"{sign}prompt_embeds_2"] = _randn(1, 4, 12, seed=seed + 2)
        call[f"{sign}prompt_embeds_mask"] = torch.ones(1, TEXT_TOKENS, dtype=torch.long)
        call[f"{sign}prompt_embeds_mask_2"] = torch.tensor([[1, 1, 0, 0]])
    return call


def allegro_call() -> dict[str, Any]:
    return {
        **_SQUARE,
        **_pair(1, TEXT_TOKENS, 16),
        **_masks(),
        "negative_prompt": None,
        "num_frames": 5,
        "guidance_scale": 5.0,
    }


def aura_flow_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 16), **_masks(), "negative_prompt": None, "guidance_scale": 3.5}


def flux2_call() -> dict[str, Any]:
    return {**_SQUARE, "prompt_embeds": _randn(1, TEXT_TOKENS, 12), "guidance_scale": 4.0}


def flux2_klein_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 12), "guidance_scale": 4.0}


def hidream_call() -> dict[str, Any]:
    embeds = {"t5": (1, TEXT_TOKENS, 12), "llama3": (3, 1, TEXT_TOKENS, 16)}
    prompts = {f"prompt_embeds_{name}": _randn(*shape) for name, shape in embeds.items()}
    negative = {f"negative_prompt_embeds_{name}": _randn(*shape, seed=8) for name, shape in embeds.items()}
    pooled = {"pooled_prompt_embeds": _randn(1, 10), "negative_pooled_prompt_embeds": _randn(1, 10, seed=8)}
    return {**_SQUARE, **prompts, **negative, **pooled, "guidance_scale": 5.0}


def chroma_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 12), **_masks(), "guidance_scale": 5.0}


def cogview4_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 16), "guidance_scale": 5.0}


def qwen_image_edit_call() -> dict[str, Any]:
    return {**qwen_image_call(), "height": 512, "width": 512, "image": _picture(32, 32)}


def qwen_image_edit_plus_call() -> dict[str, Any]:
    return {**qwen_image_edit_call(), "image": [_picture(32, 32), _picture(64, 16)]}


def _picture(width: int, height: int) -> Image.Image:
    return Image.radial_gradient("L").resize((width, height)).convert("RGB")
