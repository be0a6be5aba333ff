"""Linear attention over the rows of all ranks (Sana): all that they tell each other is the sum of their states.

With ReLU features, softmax(q k) v becomes q (sum of k v) / q (sum of k). Both sums run over tokens, so each rank sums
its own and the ranks add up: D (D + 1) numbers for each head, however many tokens there are (Xie et al., 2410.10629).
What follows folds tokens into rows for a depthwise convolution, which needs the neighbours' nearest rows.
"""

import inspect
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.base import BoundSite
from dit_accel.families.targets import Target
from dit_accel.passes.attention.routing import with_names
from dit_accel.passes.patch_parallel.config import NAME
from dit_accel.passes.patch_parallel.stage import Place, Stage
from dit_accel.runtime.ledger import PatchLedger
from dit_accel.runtime.patch import Patch

PROCESSOR = "SanaLinearAttnProcessor2_0"


class StateSum:
    """Stands for ``torch.matmul`` in a linear attention processor, which multiplies twice: states, then answers.

    Args:
        stage: Of the denoiser.
        layer: Id of the site.
    """

    def __init__(self, stage: Stage, layer: str) -> None:
        self.stage = stage
        self.layer = layer
        self._is_state = True
        self._seen: Place | None = None

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        product = torch.matmul(left, right)
        place = self.stage.place
        if place is None:
            return product
        if place is not self._seen:  # another call of the denoiser, whatever became of the last one
            self._seen, self._is_state = place, True
        is_state, self._is_state = self._is_state, not self._is_state
        if not is_state:
            return product
        own = place.tokens.frames * place.tokens.share.own * place.tokens.columns
        if left.shape[-1] != own:
            raise UnsupportedModelError(
                f"'{self.layer}' sums over {left.shape[-1]} values where this rank has {own} tokens: this version of "
                "diffusers computes linear attention in another way"
            )
        place.mailbox.comm.note("compute", self.layer)
        return place.mailbox.total(self.layer, product)


class OwnHeight(Patch[nn.Module]):
    """The ``forward`` of a block that is told the height of the picture: that of this rank's rows."""

    def __init__(self, module: nn.Module, stage: Stage) -> None:
        super().__init__(module, "forward")
        self.stage = stage
        self.position = list(inspect.signature(module.forward).parameters).index("height")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        place = self.stage.place
        if place is not None:
            rows = place.tokens.share.own
            if len(args) > self.position:
                args = (*args[: self.position], rows, *args[self.position + 1 :])
            else:
                kwargs = {**kwargs, "height": rows}
        return self.original(*args, **kwargs)


def linear_attentions(target: Target) -> Iterator[tuple[BoundSite, nn.Module]]:
    """The linear self-attention modules of a denoiser."""
    for site in target.layout.sites:
        if site.info.kind == "self_attn":
            module = target.denoiser.get_submodule(site.path)
            if type(getattr(module, "processor", None)).__name__ == PROCESSOR:
                yield site, module


def sum_states(module: nn.Module, stage: Stage, layer: str, ledger: PatchLedger) -> None:
    """Let one linear attention sum its states over all ranks."""
    processor: Any = module.processor
    stand_in: Any = types.ModuleType(torch.__name__)
    vars(stand_in).update(vars(torch), matmul=StateSum(stage, layer))
    ledger.set(module, "processor", with_names(processor, {"torch": stand_in}), by=NAME)
