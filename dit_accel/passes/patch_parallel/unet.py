"""What a UNet needs of the neighbours: rows for its convolutions, and the moments of whole pictures for its norms.

DistriFusion (Li et al., 2402.19481), with two departures. Rows go to the two neighbours only, where its code gathers
all of them on all ranks. And moments are merged as GroupNorm defines them, with n in the denominator and by the
parts' own means (Chan et al.), where its code takes n - 1 and differences of squares: fresh ones are then exact.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dit_accel.passes.patch_parallel.rows import Share
from dit_accel.passes.patch_parallel.stage import Stage
from dit_accel.runtime.patch import Patch


class HaloConv(Patch[nn.Conv2d]):
    """The ``forward`` of a convolution over rows, [B, C, h, W]: its window reaches into the neighbours' rows.

    Args:
        module: Padded with zeros, undilated.
        stage: Of the denoiser.
        layer: Its path, for the books.
    """

    def __init__(self, module: nn.Conv2d, stage: Stage, layer: str) -> None:
        super().__init__(module, "forward")
        self.stage = stage
        self.layer = layer
        self.above, self.below = reach(module)

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        place, conv = self.stage.place, self.owner
        if place is None:
            output: torch.Tensor = self.original(picture)
            return output
        batch, channels, rows, columns = picture.shape
        from_above, from_below = place.mailbox.halo(
            self.layer,
            picture[:, :, : self.below],
            picture[:, :, rows - self.above :],
            (batch, channels, self.above, columns),
            (batch, channels, self.below, columns),
        )
        if not from_above.numel():
            from_above = picture.new_zeros(batch, channels, self.above, columns)
        if not from_below.numel():
            from_below = picture.new_zeros(batch, channels, self.below, columns)
        padded = torch.cat([from_above, picture, from_below], 2)
        sideways = (0, int(conv.padding[1]))
        return F.conv2d(padded, conv.weight, conv.bias, conv.stride, sideways, conv.dilation, conv.groups)


class SharedNorm(Patch[nn.GroupNorm]):
    """The ``forward`` of a GroupNorm over this rank's rows, [B, C, ...], with the moments of the whole picture."""

    def __init__(self, module: nn.GroupNorm, stage: Stage, layer: str) -> None:
        super().__init__(module, "forward")
        self.stage = stage
        self.layer = layer

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        place, norm = self.stage.place, self.owner
        if place is None:
            output: torch.Tensor = self.original(picture)
            return output
        wide = torch.promote_types(picture.dtype, torch.float32)  # as GroupNorm itself adds up
        groups = picture.to(wide).reshape(len(picture), norm.num_groups, -1)
        own = torch.stack([groups.mean(-1), groups.var(-1, unbiased=False)])
        mailbox, share = place.mailbox, place.tokens.share
        parts = mailbox.gather_late(self.layer, own, [tuple(own.shape)] * share.size)
        mean, variance = merged(parts, share)
        if not mailbox.fresh:
            mean, variance = corrected(mean, variance, own, parts[share.rank])
        normed = (groups - mean[..., None]) * torch.rsqrt(variance[..., None] + norm.eps)
        normed = normed.view(picture.shape)
        if norm.weight is not None:
            axes = (1, -1) + (1,) * (picture.dim() - 2)
            normed = normed * norm.weight.to(wide).view(axes) + norm.bias.to(wide).view(axes)
        return normed.to(picture.dtype)


def reach(conv: nn.Conv2d) -> tuple[int, int]:
    """How many rows above and below this rank's own a convolution looks at."""
    above = int(conv.padding[0])
    return above, max(0, conv.kernel_size[0] - conv.stride[0] - above)


def merged(parts: list[torch.Tensor], share: Share) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of all rows from those of each rank's, [2, B, G] each."""
    weights = [count / share.rows for count in share.counts]
    mean = sum((weight * part[0] for weight, part in zip(weights, parts, strict=True)), torch.zeros_like(parts[0][0]))
    spread = (weight * (part[1] + (part[0] - mean) ** 2) for weight, part in zip(weights, parts, strict=True))
    return mean, sum(spread, torch.zeros_like(mean))


def corrected(
    mean: torch.Tensor, variance: torch.Tensor, own: torch.Tensor, own_before: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of the evaluation before, moved by what this rank's own have moved by since; its own where that fails.

    Args:
        mean: Of all rows, before.
        variance: Of all rows, before.
        own: This rank's mean and variance now.
        own_before: And before.
    """
    moved = mean + own[0] - own_before[0]
    squares = variance + mean**2 + (own[1] + own[0] ** 2) - (own_before[1] + own_before[0] ** 2)
    now = squares - moved**2
    return moved, torch.where(now > 0, now, own[1])


def why_no_rows(unet: nn.Module) -> list[str]:
    """Why this UNet cannot be computed in rows; empty: it can."""
    found: list[str] = []
    for name, module in unet.named_modules():
        if isinstance(module, nn.Conv2d):
            plain = type(module).forward is nn.Conv2d.forward and module.padding_mode == "zeros"
            if not plain or module.dilation != (1, 1) or isinstance(module.padding, str):
                found.append(f"'{name}' is no plain convolution padded with zeros")
            elif module.stride[0] > 1 and module.padding[0] == 0 and module.kernel_size[0] > 1:
                found.append(f"'{name}' pads its picture itself, on two sides only")
        elif isinstance(module, nn.Conv1d | nn.Conv3d | nn.ConvTranspose2d):
            found.append(f"'{name}' is a {type(module).__name__}, which is not split yet")
    blocks: Any = getattr(unet, "up_blocks", ())
    if any(getattr(block, name, None) is not None for block in blocks for name in ("s1", "s2", "b1", "b2")):
        found.append("FreeU filters whole pictures: pipe.disable_freeu()")
    return found


def rows_of_a_unit(unet: nn.Module) -> int:
    """How many rows of the latents are one at the coarsest grid."""
    blocks: Any = getattr(unet, "down_blocks", ())
    halvings = sum(getattr(block, "downsamplers", None) is not None for block in blocks)
    return 1 << halvings
