"""Masks as bits: a byte holds eight blocks, in the order of ``numpy.packbits``."""

import numpy as np
import torch


def pack(mask: torch.Tensor) -> torch.Tensor:
    """bool [..., n] to uint8 [..., ceil(n / 8)]."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy(), axis=-1))


def unpack(packed: torch.Tensor, length: int) -> torch.Tensor:
    """The inverse of :func:`pack`, on the tensor's own device."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = (packed[..., None] >> places) & 1
    return bits.flatten(-2)[..., :length].to(torch.bool)
