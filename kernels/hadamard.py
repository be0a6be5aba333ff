"""Rotation of the input channels by Hadamard matrices along the diagonal: it spreads what sits in a few channels.

An orthogonal matrix on both sides of a product changes nothing but how it rounds (QuaRot, arXiv 2404.00456; ViDiT-Q,
arXiv 2406.02540, section 4.2). Sylvester's matrix is symmetric, so that it is its own inverse here.
"""

from functools import cache

import torch
from torch import Tensor

MAX_BLOCK = 128


def block_for(in_features: int, largest: int = MAX_BLOCK) -> int:
    """The largest power of two up to ``largest`` that divides ``in_features``; 1: none does."""
    return min(largest, in_features & -in_features)


def hadamard_matrix(size: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Orthogonal [size, size], entries plus or minus 1 / sqrt(size).

    Raises:
        ValueError: The size is no power of two.
    """
    if size < 1 or size & (size - 1):
        raise ValueError(f"a Hadamard matrix has a power of two of rows here, not {size}")
    matrix: Tensor = _matrix(size, str(device), dtype)
    return matrix


@cache
def _matrix(size: int, device: str, dtype: torch.dtype) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    scaled: Tensor = (matrix / size**0.5).to(device, dtype)
    return scaled


def rotate_blocks(x: Tensor, block: int) -> Tensor:
    """[..., K] with every ``block`` channels rotated by one matrix; twice gives ``x`` again.

    Raises:
        ValueError: ``block`` does not divide K.
    """
    if block == 1:
        return x
    if x.shape[-1] % block:
        raise ValueError(f"blocks of {block} do not divide {x.shape[-1]} channels")
    matrix = hadamard_matrix(block, x.device, x.dtype)
    turned: Tensor = (x.unflatten(-1, (-1, block)) @ matrix).flatten(-2)
    return turned
