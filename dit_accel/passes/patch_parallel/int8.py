"""Keys and values on the wire in 8 bits: one scale for each token and head, half the bytes of bfloat16.

Only what travels is rounded; a rank's own keys and values are used as they are. Symmetric absmax rounding as in
SageAttention's per-token keys (Zhang et al., 2410.02367), here for the way between ranks and not for the arithmetic.
"""

import torch

LARGEST = 127


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the bytes for a tensor [..., D]: D values and a float32 scale."""
    return (*shape[:-1], shape[-1] + 4)


def pack(values: torch.Tensor) -> torch.Tensor:
    """Round [..., D] along its last axis; returns uint8 [..., D + 4]."""
    exact = values.float()
    scales = exact.abs().amax(-1, keepdim=True) / LARGEST
    rounded = (exact / scales.clamp_min(torch.finfo(torch.float32).tiny)).round().clamp(-LARGEST, LARGEST)
    return torch.cat([rounded.to(torch.int8).view(torch.uint8), scales.contiguous().view(torch.uint8)], -1)


def unpack(received: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The opposite of :func:`pack`, in ``dtype``."""
    rounded, scales = received[..., :-4].contiguous(), received[..., -4:].contiguous()
    return (rounded.view(torch.int8).float() * scales.view(torch.float32)).to(dtype)
