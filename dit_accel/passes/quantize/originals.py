"""Where the weights are that a quantised layer stands for: in the main memory, or nowhere."""

from typing import Literal

import torch
from torch import nn

from dit_accel.passes.quantize.layer import QuantLinear
from dit_accel.runtime.call import Run
from dit_accel.runtime.denoiser import DenoiserRuntime

BY = "quantize"


class Originals:
    """Sends weights to the main memory and brings them back, the very same objects; or lets them go at the first run.

    Not before: until everything is applied, a plan may fail and be undone.

    Args:
        runtime: Of the denoiser.
        policy: ``"keep"`` or ``"drop"``.
    """

    def __init__(self, runtime: DenoiserRuntime, policy: Literal["keep", "drop"]) -> None:
        self.runtime, self.policy = runtime, policy
        self.taken: dict[int, tuple[nn.Module, QuantLinear]] = {}
        if policy == "drop":
            runtime.each_run(self._let_go, by=BY)

    def take(self, original: nn.Linear, layer: QuantLinear) -> None:
        """A layer has taken the place of another."""
        if id(original) in self.taken:
            return
        self.taken[id(original)] = (original, layer)
        if self.policy == "keep" and original.weight.device.type not in ("cpu", "meta"):
            move(original, torch.device("cpu"))
        # Registered after the replacement, so it is undone before: the weight is back before its layer is.
        self.runtime.ledger.on_undo(lambda: move(original, layer.values.device), by=BY)

    def _let_go(self, run: Run) -> None:
        for original, layer in self.taken.values():
            layer.let_go()
            original._parameters["weight"] = None
        self.taken = {}


def move(original: nn.Module, device: torch.device) -> None:
    """Move the weight, in the same parameter object; a bias is the quantised layer's too, and is where that is."""
    weight = original._parameters["weight"]
    if weight is not None and weight.device != device and device.type != "meta":
        weight.data = weight.data.to(device)
