"""Configs of the tiny video denoisers that came after those in ``tiny_configs``."""

from typing import Any

from tiny_configs import TINY, Tiny

_WAN = TINY["wan"].config

_LTX2: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "audio_in_channels": 4,
    "audio_out_channels": 4,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 4,
    "audio_cross_attention_dim": 8,
    "num_layers": 2,
    "caption_channels": 12,
}

_KANDINSKY5: dict[str, Any] = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "in_text_dim": 16,
    "in_text_dim2": 8,
    "time_dim": 16,
    "model_dim": 24,
    "ff_dim": 32,
    "num_text_blocks": 1,
    "num_visual_blocks": 2,
    "axes_dims": (4, 4, 4),
}

_ANIMATEDIFF: dict[str, Any] = {
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
}

VIDEO_TINY: dict[str, Tiny] = {
    "wan_ti2v": Tiny("WanTransformer3DModel", {**_WAN, "in_channels": 48, "out_channels": 48}, frames=5),
    "wan_vace": Tiny(
        "WanVACETransformer3DModel",
        # 2 x 4 latent channels and 8 x 8 pixels of the mask
        {**_WAN, "num_layers": 3, "vace_layers": [0, 2], "vace_in_channels": 72},
        frames=5,
    ),
    "wan_animate": Tiny(
        "WanAnimateTransformer3DModel",
        {
            **_WAN,
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": 12,
            "added_kv_proj_dim": 24,
            "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 4,
            "motion_encoder_dim": 8,
            "face_encoder_hidden_dim": 8,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 1,
        },
        frames=5,
    ),
    "ltx2": Tiny("LTX2VideoTransformer3DModel", _LTX2, px=128, frames=9),
    # LTX-2.3: the prompt is projected elsewhere and modulated by the timestep, the attentions are gated.
    "ltx23": Tiny(
        "LTX2VideoTransformer3DModel",
        {
            **_LTX2,
            "use_prompt_embeddings": False,
            "gated_attn": True,
            "cross_attn_mod": True,
            "audio_gated_attn": True,
            "audio_cross_attn_mod": True,
            "perturbed_attn": True,
            "rope_type": "split",
        },
        px=128,
        frames=9,
    ),
    "animatediff": Tiny("UNetMotionModel", _ANIMATEDIFF, frames=2),
    "animatediff_sdxl": Tiny(
        "UNetMotionModel",
        {
            **_ANIMATEDIFF,
            "use_linear_projection": True,
            "use_motion_mid_block": False,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
        frames=2,
    ),
    "svd": Tiny(
        "UNetSpatioTemporalConditionModel",
        {
            "sample_size": 8,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "block_out_channels": (32, 32),  # its norms have 32 groups
            "layers_per_block": 1,
            "cross_attention_dim": 16,
            "num_attention_heads": (2, 2),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 3 * 8,
        },
        frames=2,
    ),
    "kandinsky5": Tiny("Kandinsky5Transformer3DModel", _KANDINSKY5, frames=5),
    "kandinsky5_i2v": Tiny("Kandinsky5Transformer3DModel", {**_KANDINSKY5, "visual_cond": True}, frames=5),
    "hunyuan_video15": Tiny(
        "HunyuanVideo15Transformer3DModel",
        {
            "in_channels": 9,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "mlp_ratio": 2.0,
            "text_embed_dim": 16,
            "text_embed_2_dim": 12,
            "image_embed_dim": 12,
            "rope_axes_dim": (2, 2, 4),
            "target_size": 16,
        },
        frames=5,
    ),
    "allegro": Tiny(
        "AllegroTransformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 2,
            "cross_attention_dim": 24,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 8,
            "caption_channels": 16,
        },
        frames=5,
    ),
}
