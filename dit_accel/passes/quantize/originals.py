"""Where the weights are that a quantised layer stands for: in the main memory, or nowhere."""

import torch
from torch import nn

from dit_accel.passes.quantize.config import Originals as Policy
from dit_accel.passes.quantize.layer import QuantLinear
from dit_accel.passes.quantize.roles import Layer
from dit_accel.runtime.ledger import PatchLedger

BY = "quantize"


class Originals:
    """Sends weights to the main memory and brings them back, the very same objects; or lets them go at the first run.

    Not before: until everything is applied, a plan may fail and be undone.

    Args:
        ledger: Brings them back.
        policy: ``"keep"`` or ``"drop"``; those that exact steps compute with are where their layers are.
    """

    def __init__(self, ledger: PatchLedger, policy: Policy) -> None:
        self.ledger, self.policy = ledger, policy
        self.taken: dict[int, tuple[nn.Module, nn.Module, tuple[QuantLinear, ...]]] = {}

    def take(self, original: Layer, layer: nn.Module, parts: tuple[QuantLinear, ...], *, is_exact: bool) -> None:
        """A layer has taken the place of another.

        Args:
            original: The other.
            layer: Itself.
            parts: Of it, that multiply; the first has the bias.
            is_exact: Whether some steps compute with the other.
        """
        if id(original) in self.taken:
            return
        self.taken[id(original)] = (original, layer, parts)
        parts[0].moves_original = is_exact
        if self.policy == "keep" and not is_exact and original.weight.device.type not in ("cpu", "meta"):
            move(original, parts[0], torch.device("cpu"))
        # Registered after the replacement, so it is undone before: the weight is back before its layer is.
        self.ledger.on_undo(lambda: move(original, parts[0], parts[0].values.device), by=BY)

    def put_back(self, model: nn.Module) -> None:
        """Replace what is left of ours in a model: adapters that are unloaded put what they held elsewhere."""
        ours = {id(layer): original for original, layer, _ in self.taken.values()}
        for parent in list(model.modules()):
            parent._modules.update(
                {name: ours[id(each)] for name, each in parent._modules.items() if id(each) in ours}
            )

    def let_go(self) -> None:
        """A run begins: forget the weights of a plan that drops them."""
        for original, _, parts in self.taken.values():
            for part in parts:
                part.let_go()
            original._parameters["weight"] = None
        self.taken = {}


def move(original: nn.Module, part: QuantLinear, device: torch.device) -> None:
    """Move what the quantised layer does not use as well, in the same parameter objects."""
    for parameter in part.own_parameters(original):
        if parameter.device != device and device.type != "meta":
            parameter.data = parameter.data.to(device)
