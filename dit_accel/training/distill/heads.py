"""Heads of a discriminator on a frozen network's tokens, and the hooks that read them.

LADD (Sauer et al. 2024, arXiv 2403.12015) with the heads of SANA-Sprint's code: per token a spectrally normed
projection, batch norm over virtual batches, a residual convolution along the sequence, one logit.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from dit_accel.errors import UnsupportedModelError

VIRTUAL_BATCH, SLOPE, KERNEL = 8, 0.2, 9
_STACKS = ("transformer_blocks", "single_transformer_blocks", "blocks")


class VirtualBatchNorm(nn.Module):
    """Batch norm over every eight samples: real and fake samples of one batch must not tell on each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels, 1)), nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, N] to the same."""
        size = next(size for size in range(min(VIRTUAL_BATCH, len(x)), 0, -1) if len(x) % size == 0)
        groups = x.unflatten(0, (-1, size))
        mean = groups.mean(dim=(1, 3), keepdim=True)
        variance = groups.var(dim=(1, 3), keepdim=True, unbiased=False)
        normal = ((groups - mean) * (variance + 1e-5).rsqrt()).flatten(0, 1)
        found: torch.Tensor = normal * self.weight + self.bias
        return found


class Head(nn.Module):
    """One logit a token.

    Args:
        width: Of the tokens.
        channels: Of the head.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv1d(width, channels, 1))
        self.norm = VirtualBatchNorm(channels)
        self.middle = spectral_norm(
            nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2, padding_mode="circular")
        )
        self.middle_norm = VirtualBatchNorm(channels)
        self.last = spectral_norm(nn.Conv1d(channels, 1, 1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, D] to logits [B, N]."""
        x = F.leaky_relu(self.norm(self.first(tokens.transpose(1, 2))), SLOPE)
        x = (x + F.leaky_relu(self.middle_norm(self.middle(x)), SLOPE)) / 2**0.5
        logits: torch.Tensor = self.last(x)
        return logits[:, 0]


class Trunk:
    """Reads a transformer's image tokens after some of its blocks.

    Args:
        network: The transformer.
        blocks: Numbers of blocks, counted over all its stacks; empty: four evenly spread.

    Raises:
        UnsupportedModelError: It has no stack of blocks that we know.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[int] = ()) -> None:
        found = [block for name in _STACKS for block in getattr(network, name, ())]
        if not found:
            raise UnsupportedModelError(
                f"a discriminator needs a transformer with {' or '.join(_STACKS)}, got {type(network).__name__}"
            )
        count = len(found)
        self.numbers = tuple(blocks) or tuple(sorted({round((i + 1) * count / 5) for i in range(4)} - {count}))
        self.blocks = [found[number] for number in self.numbers]

    @contextlib.contextmanager
    def reading(self) -> Iterator[list[torch.Tensor]]:
        """Collects what the blocks give while it lasts, each [B, N, D] in the order of the blocks."""
        tokens: list[torch.Tensor] = []
        handles = [block.register_forward_hook(lambda m, a, out: tokens.append(_image(out))) for block in self.blocks]
        try:
            yield tokens
        finally:
            for handle in handles:
                handle.remove()


def _image(output: Any) -> torch.Tensor:
    """The image stream of a block's output: diffusers' joint blocks return text first."""
    tokens: torch.Tensor = output[-1] if isinstance(output, tuple) else output
    return tokens.float()


def hinge_critic(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """(E max(0, 1 - real) + E max(0, 1 + fake)) / 2."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_student(fake: torch.Tensor) -> torch.Tensor:
    """-E fake."""
    return -fake.mean()
