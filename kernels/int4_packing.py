"""Two weights in a byte, and groups of weights whose steps are whole multiples of the channel's.

A group's step is ``m`` times that of its output channel, with a whole ``m``, and its zero is one of its own points. So
``(q - z) * m`` is an int8 weight of the channel's scale, and a product with 4-bit weights is one product of int8:
there is no sum to be scaled group by group. After the progressive grouping of QServe (Lin et al., arXiv 2405.04532,
section 4.1); m and z of a group of 64 take a byte each, 0.25 bits a weight.
"""

import torch
from torch import Tensor

LEVELS = 16


def pack_nibbles(values: Tensor) -> Tensor:
    """uint8 [N, ceil(K / 2)] of whole numbers 0 to 15 [N, K]: even columns in the low half, an odd last one alone."""
    values = values.to(torch.uint8)
    if values.shape[-1] % 2:
        values = torch.nn.functional.pad(values, (0, 1))
    return values[..., ::2] | (values[..., 1::2] << 4)


def unpack_nibbles(packed: Tensor, in_features: int) -> Tensor:
    """uint8 [N, K] of what :func:`pack_nibbles` made."""
    values: Tensor = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    return values[..., :in_features]


def expand_groups(values: Tensor, multiplier: Tensor, zero: Tensor, group: int) -> Tensor:
    """int8 [N, K]: the weights in units of their channels' scales.

    Args:
        values: uint8 [N, K], 0 to 15.
        multiplier: uint8 [N, G], the step of each group, in channel steps.
        zero: uint8 [N, G], which of the 16 points is 0. No point that is used may lie beyond int8.
        group: Columns in a group; the last one may be shorter.
    """
    size = values.shape[-1]
    whole = size // group * group
    signed, steps, zeros = (each.view(torch.int8) for each in (values, multiplier, zero))
    head = signed[:, :whole].unflatten(1, (-1, group))
    groups = head.shape[1]
    out: Tensor = head.sub(zeros[:, :groups, None]).mul_(steps[:, :groups, None]).flatten(1)
    if whole < size:
        tail = (signed[:, whole:] - zeros[:, groups:]) * steps[:, groups:]
        out = torch.cat([out, tail], 1)
    return out


def unpack_int8(packed: Tensor, multiplier: Tensor, zero: Tensor, group: int, in_features: int) -> Tensor:
    """int8 [N, K] of a packed weight: :func:`unpack_nibbles`, then :func:`expand_groups`."""
    return expand_groups(unpack_nibbles(packed, in_features), multiplier, zero, group)
