"""Kernel distance between two sets of image features: unbiased for any number of images, unlike Fréchet's."""

from dataclasses import dataclass

import torch

from dit_accel.errors import ConfigError, MissingDependencyError

BLOCKS = 100
BLOCK_SIZE = 1000  # of Bińkowski et al.; with fewer images half of the smaller set


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelDistance:
    """A block estimate.

    Attributes:
        value: Mean over the blocks, an unbiased estimate of the squared maximum mean discrepancy: a little below zero
            is as good as zero.
        spread: Standard deviation over the blocks. They overlap, so that it says how much one block can be trusted
            and is no standard error of ``value``.
        blocks: How many.
        block_size: Images of each set in a block.
    """

    value: float
    spread: float
    blocks: int
    block_size: int


def kernel_distance(
    real: torch.Tensor,
    generated: torch.Tensor,
    *,
    blocks: int = BLOCKS,
    block_size: int | None = None,
    seed: int = 0,
) -> KernelDistance:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3 (Bińkowski et al. 2018, "KID", §4).

    Each block draws ``block_size`` images of either set without replacement. The arithmetic of a block is
    torchmetrics', in float64; the drawing is ours, since torchmetrics' cannot be seeded without touching the global
    generator. Only on InceptionV3 features may it be called KID.

    Args:
        real: Features [M, D].
        generated: Features [N, D].
        blocks: How many.
        block_size: At most min(M, N); ``None``: 1000, or half of the smaller set where that is less, since blocks that
            hold the whole set are all the same and show no spread.
        seed: Of the drawing.

    Raises:
        ConfigError: Shapes do not match, a set has fewer than four images, or a block does not fit.
        MissingDependencyError: torchmetrics is not installed.
    """
    try:
        from torchmetrics.image.kid import poly_mmd
    except ImportError as error:
        raise MissingDependencyError.for_extra("torchmetrics", "eval", "The kernel distance") from error
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ConfigError(f"Want features [M, D] and [N, D], got {tuple(real.shape)} and {tuple(generated.shape)}.")
    smaller = min(len(real), len(generated))
    if smaller < 4:
        raise ConfigError(f"Want at least four images in each set, got {len(real)} and {len(generated)}.")
    size = min(BLOCK_SIZE, smaller // 2) if block_size is None else block_size
    if not 2 <= size <= smaller or blocks < 1:
        raise ConfigError(f"Want a block of 2 to {smaller} images and at least one block, got {size} and {blocks}.")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(blocks):
        left, right = (part[torch.randperm(len(part), generator=generator)[:size]] for part in (real, generated))
        values.append(float(poly_mmd(left.double(), right.double())))
    estimates = torch.tensor(values, dtype=torch.float64)
    return KernelDistance(
        value=float(estimates.mean()), spread=float(estimates.std(unbiased=False)), blocks=blocks, block_size=size
    )
