"""Configs of the tiny video denoisers that came after those in ``tiny_configs``."""

from tiny_configs import TINY, Tiny

_WAN = TINY["wan"].config

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
}
