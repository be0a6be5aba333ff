"""In which type a device trains fast."""

import torch


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """The autocast type of a training.

    Args:
        name: ``"bf16"``, ``"fp32"``, or ``"auto"``: bf16 where the device has it. A CPU without it (AVX2 alone)
            emulates every product, which takes many times as long as float32.
        device: Where the network is.
    """
    if name == "auto":
        name = "bf16" if has_bf16(device) else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True
