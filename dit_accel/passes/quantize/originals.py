"""Where the weights are that a quantised layer stands for: in the main memory, or nowhere."""

from typing import Literal

import torch
from torch import nn

from dit_accel.passes.quantize.layer import QuantLinear
from dit_accel.runtime.ledger import PatchLedger

BY = "quantize"


class Originals:
    """Sends weights to the main memory and brings them back, the very same objects; or lets them go at the first run.

    Not before: until everything is applied, a plan may fail and be undone.

    Args:
        ledger: Brings them back.
        policy: ``"keep"``, ``"stay"`` (for steps that compute with them: where they are) or ``"drop"``.
    """

    def __init__(self, ledger: PatchLedger, policy: Literal["keep", "stay", "drop"]) -> None:
        self.ledger, self.policy = ledger, policy
        self.taken: dict[int, tuple[nn.Module, tuple[QuantLinear, ...]]] = {}

    def take(self, original: nn.Linear | nn.Conv2d, parts: tuple[QuantLinear, ...]) -> None:
        """A layer, or parts that make one, has taken the place of another."""
        if id(original) in self.taken:
            return
        self.taken[id(original)] = (original, parts)
        if self.policy == "keep" and original.weight.device.type not in ("cpu", "meta"):
            move(original, torch.device("cpu"))
        # Registered after the replacement, so it is undone before: the weight is back before its layer is.
        self.ledger.on_undo(lambda: move(original, parts[0].values.device), by=BY)

    def let_go(self) -> None:
        """A run begins: forget the weights of a plan that drops them."""
        for original, parts in self.taken.values():
            for part in parts:
                part.let_go()
            original._parameters["weight"] = None
        self.taken = {}


def move(original: nn.Module, device: torch.device) -> None:
    """Move the weight, in the same parameter object; a bias is the quantised layer's too, and is where that is."""
    weight = original._parameters["weight"]
    if weight is not None and weight.device != device and device.type != "meta":
        weight.data = weight.data.to(device)
