"""Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022), AlexNet: a perceptual distance whose weights pip can install.

LPIPS (Zhang et al. 2018) compares unit-normalised features of two images, channel by channel with learned weights,
and averages over places and adds over five layers. ST-LPIPS does the same on an AlexNet that was changed and trained
so that a shift by a pixel or two, which no one sees, hardly counts: the first convolution has stride 1 instead of 4
and is followed by a blur of stride 2 (before its ReLU), each max-pooling of stride 2 became one of stride 1 and a blur
of stride 2, and the blurs pad by reflection of 2 pixels. Trunk and heads are trained for it, so its values are its
own: it is never called LPIPS here.

The weights are read from the installed package ``stlpips-pytorch`` (BSD-2-Clause) without importing it, since it
wants torchvision, torchsummary and IPython to load. Our network is written from its state dict and the paper; a test
compares it with the package's own code.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F

from dit_accel.errors import ConfigError, MissingDependencyError

PACKAGE = "stlpips-pytorch"
MODULE = "stlpips_pytorch"
WEIGHTS = "weights/vST0.0/alex_shift_tolerant.pth"
WEIGHTS_SHA256 = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"
MIN_PX = 21
PADDING_PX = 2
EPSILON = 1e-10
# Place of each convolution in the state dict, and its padding.
CONVOLUTIONS = (("slice1.0", 2), ("slice2.5", 2), ("slice3.9", 1), ("slice4.11", 1), ("slice5.13", 1))


def weights_file() -> Path | None:
    """Where the installed package keeps the weights; ``None`` when it is not installed."""
    spec = find_spec(MODULE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / WEIGHTS).is_file():
            return Path(folder) / WEIGHTS
    return None


class STLPIPS(torch.nn.Module):
    """The network, frozen.

    Raises:
        MissingDependencyError: The package that has the weights is not installed.
        ConfigError: Its weights file is another one.
    """

    def __init__(self) -> None:
        super().__init__()
        path = weights_file()
        if path is None:
            raise MissingDependencyError.for_extra(PACKAGE, "eval", "ST-LPIPS")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != WEIGHTS_SHA256:
            raise ConfigError(f"'{path}' has sha256 {digest}, wanted {WEIGHTS_SHA256}: install {PACKAGE}==0.0.2")
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.shift: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("shift", state["scaling_layer.shift"])
        self.register_buffer("scale", state["scaling_layer.scale"])
        self.convolutions = torch.nn.ModuleList()
        for name, padding in CONVOLUTIONS:
            weight, bias = state[f"net.{name}.weight"], state[f"net.{name}.bias"]
            layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=padding)
            layer.load_state_dict({"weight": weight, "bias": bias})
            self.convolutions.append(layer)
        self.heads = [f"head{k}" for k in range(len(CONVOLUTIONS))]
        for k, name in enumerate(self.heads):
            self.register_buffer(name, state[f"lin{k}.model.1.weight"])
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Distances, 0 for equal images; lower is closer.

        Args:
            images: Shape [B, 3, H, W], in [0, 1], at least 21 pixels a side.
            reference: The same.

        Returns:
            float32 [B].
        """
        total = torch.zeros(len(images), device=self.shift.device)
        for left, right, name in zip(self.features(images), self.features(reference), self.heads, strict=True):
            difference = (_unit(left) - _unit(right)).square()
            total += F.conv2d(difference, self.get_buffer(name)).mean(dim=(1, 2, 3))
        return total

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What the five convolutions find in images in [0, 1], [B, 3, H, W], each [B, C, h, w]."""
        x = (images.to(self.shift) * 2 - 1 - self.shift) / self.scale
        first, second, third, fourth, fifth = self.convolutions
        taps = [F.relu(_halve(first(x)))]
        for convolution in (second, third):
            taps.append(F.relu(convolution(_halve(F.max_pool2d(taps[-1], 3, stride=1)))))
        for convolution in (fourth, fifth):
            taps.append(F.relu(convolution(taps[-1])))
        return taps


def _unit(features: torch.Tensor) -> torch.Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + EPSILON)


def _halve(x: torch.Tensor) -> torch.Tensor:
    """Blur with the binomial [1, 2, 1] both ways and keep every second pixel (Zhang 2019, BlurPool)."""
    line = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, [PADDING_PX] * 4, mode="reflect"), kernel, stride=2, groups=x.shape[1])
