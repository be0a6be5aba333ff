"""Convolutions on integers: windows as rows, one product for all of them.

As rows, each window has a scale of its own, which a convolution of integers could not have; every element that is
summed into one output still shares one. Where a UNet joins a skip connection to its stream the channels are of two
kinds, with ranges of their own: they are convolved apart and added (Q-Diffusion, arXiv 2302.04304, section 4.2).
"""

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_accel.passes.quantize.layer import QuantLinear
from dit_accel.passes.quantize.ways import AUTO, DEQUANTISE, Ways

if TYPE_CHECKING:
    from collections.abc import Callable


WINDOWS_BYTES = 2**28  # of windows at a time; more of them are no quicker than the convolution itself
PARTS = ("stream", "skip")  # of a convolution that is given both; part of the names in plans


class QuantConv2d(QuantLinear):
    """A convolution as a linear layer over windows [C * height * width].

    Attributes:
        quick: By shape of the input whether integers are faster than the convolution with its weight multiplied out.
    """

    def __init__(self, original: nn.Conv2d, *args: Any, **more: Any) -> None:
        super().__init__(original, *args, **more)
        self.kernel_size, self.stride = original.kernel_size, original.stride
        self.padding, self.dilation = original.padding, original.dilation
        self.quick: dict[tuple[int, ...], bool] = {}

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, N, H', W'], in the dtype of ``x``."""
        if self.step.exact and self.original is not None:
            return self.exactly(x)
        if isinstance(self.way, Ways) and self.way.policy in (AUTO, DEQUANTISE) and not self._is_quick(x, self.way):
            return self.multiplied_out(x)
        return self.on_rows(x)

    def on_rows(self, x: Tensor) -> Tensor:
        """By windows, those of some rows of the output at a time; of all where they share a scale."""
        height, width = self._size(x.shape[2], 0), self._size(x.shape[3], 1)
        nbytes = self._bytes_of_windows(x)
        if nbytes <= WINDOWS_BYTES or self.scheme.granularity == "tensor":
            return self._on_windows(x, width, self.padding)
        rows = max(1, height * WINDOWS_BYTES // nbytes)
        down, across = (int(each) for each in self.padding)
        padded = F.pad(x, (across, across, down, down))
        reach, stride = self.dilation[0] * (self.kernel_size[0] - 1) + 1, self.stride[0]
        bands = [(first, min(first + rows, height) - 1) for first in range(0, height, rows)]
        parts = [padded[:, :, first * stride : last * stride + reach] for first, last in bands]
        return torch.cat([self._on_windows(part, width, (0, 0)) for part in parts], 2)

    def _on_windows(self, x: Tensor, width: int, padding: str | tuple[int, ...]) -> Tensor:
        windows = F.unfold(x, self.kernel_size, self.dilation, padding, self.stride)  # type: ignore[arg-type]
        rows = windows.mT.reshape(-1, self.in_features)
        out = self.way(self, rows).to(x.dtype).view(len(x), -1, self.out_features).mT
        return out.reshape(len(x), self.out_features, -1, width)

    def _bytes_of_windows(self, x: Tensor) -> int:
        places = self._size(x.shape[2], 0) * self._size(x.shape[3], 1)
        return len(x) * places * self.in_features * x.element_size()

    def multiplied_out(self, x: Tensor) -> Tensor:
        """The convolution itself, which saves memory and no time."""
        weight = self.plain_weight().to(x.dtype).view(self.out_features, -1, *self.kernel_size)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation)  # type: ignore[arg-type]

    def _size(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
        return (size + 2 * int(self.padding[axis]) - reach - 1) // self.stride[axis] + 1

    def _is_quick(self, x: Tensor, ways: Ways) -> bool:
        if ways.policy == DEQUANTISE or self.scheme.a_bits == 16 or self._bytes_of_windows(x) > WINDOWS_BYTES:
            return False
        shape = tuple(x.shape)
        if shape not in self.quick:
            if torch.compiler.is_compiling():
                return False
            runs: tuple[Callable[[Tensor], Tensor], ...] = (self.on_rows, self.multiplied_out)
            taken = [min(_seconds(run, x) for _ in range(3)) for run in runs]
            self.quick[shape] = taken[0] < taken[1]
        return self.quick[shape]


class SplitConv2d(nn.Module):
    """A convolution over two groups of channels, each on integers of its own.

    Args:
        original: The convolution it stands for.
        parts: Over the first ``at`` channels, with the bias, and over the others, without.
        at: Where the skip connection begins.
    """

    def __init__(self, original: nn.Conv2d, parts: tuple[QuantConv2d, QuantConv2d], at: int) -> None:
        super().__init__()
        self.stream, self.skip = parts
        self.at = at
        self.out_channels = original.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, N, H', W']."""
        if self.stream.step.exact and self.stream.original is not None:
            return self.stream.exactly(x)
        out: Tensor = self.stream(x[:, : self.at]) + self.skip(x[:, self.at :])
        return out

    def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
        import copy

        if self.stream.original is not None:
            plain: nn.Module = copy.deepcopy(self.stream.original, memo)
            return plain
        twin = SplitConv2d.__new__(SplitConv2d)
        nn.Module.__init__(twin)
        memo[id(self)] = twin
        twin.stream, twin.skip = copy.deepcopy(self.stream, memo), copy.deepcopy(self.skip, memo)
        twin.at, twin.out_channels = self.at, self.out_channels
        return twin


def skip_channels(denoiser: nn.Module) -> dict[str, int]:
    """Where the channels of a skip connection begin, by path, for the convolutions of a UNet that are given both."""
    found: dict[str, int] = {}
    middle, up_blocks = getattr(denoiser, "mid_block", None), getattr(denoiser, "up_blocks", None)
    if not isinstance(up_blocks, nn.ModuleList) or not hasattr(middle, "resnets"):
        return found
    stream = int(middle.resnets[-1].out_channels)  # type: ignore[union-attr,index]
    for number, block in enumerate(up_blocks):
        for place, resnet in enumerate(getattr(block, "resnets", ())):
            own = int(resnet.out_channels)
            at = stream if place == 0 else own
            for name in ("conv1", "conv_shortcut"):
                conv = getattr(resnet, name, None)
                if isinstance(conv, nn.Conv2d) and at < conv.in_channels:
                    found[f"up_blocks.{number}.resnets.{place}.{name}"] = at
            stream = own
    return found


def why_not(conv: nn.Conv2d) -> str | None:
    """Why a convolution is left as it is; ``None``: it can be quantised."""
    if conv.groups != 1:
        return "it convolves groups of channels apart"
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return f"it pads by '{conv.padding if isinstance(conv.padding, str) else conv.padding_mode}'"
    return None


def _seconds(run: "Callable[[Tensor], Tensor]", x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    start = time.perf_counter()
    with torch.no_grad():
        run(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start
