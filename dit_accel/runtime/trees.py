"""Nested outputs of modules: mapping over their tensors, and stand-ins for those that nobody reads."""

from collections.abc import Callable
from typing import Any

import torch

Tree = Any  # a tensor, or a nested tuple, list or dict (a model output) of tensors and None


def map_tree(function: Callable[[torch.Tensor], torch.Tensor], tree: Tree) -> Tree:
    """Apply ``function`` to every tensor of a nested tuple, list or dict; other leaves stay."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return type(tree)(**{key: map_tree(function, item) for key, item in tree.items()})
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_tree(function, item) for item in tree)
    return tree


def leaves(tree: Tree) -> list[torch.Tensor]:
    """The tensors of a nested tuple, list or dict, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, (tuple, list)):
        return [tensor for item in tree for tensor in leaves(item)]
    return []


def version(tensor: torch.Tensor) -> int:
    """The in-place modification counter of a tensor; -1 for inference tensors, which have none."""
    return -1 if tensor.is_inference() else tensor._version


def versions(tree: Tree) -> tuple[int, ...]:
    """The counters of all tensors of a tree."""
    return tuple(version(tensor) for tensor in leaves(tree))


def hollow(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros of the same shape, dtype and device that take the memory of one element."""
    return tensor.new_zeros(()).expand(tensor.shape)


def placeholder(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros of the same shape, dtype and device that native code may write to."""
    return torch.zeros_like(tensor)


def crumb(tensor: torch.Tensor) -> torch.Tensor:
    """The first token of a sequence [B, N, C]: stands in for a norm whose readers do not look.

    The modulation that native code applies to it then costs next to nothing, where on the whole sequence it would be
    a good part of what a reused step takes.
    """
    return tensor[:, :1] if tensor.dim() == 3 else tensor
