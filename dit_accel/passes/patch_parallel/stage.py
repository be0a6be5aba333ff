"""Where a call is between its cut and its gathering: what the patched modules of one denoiser share."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dit_accel.passes.patch_parallel.mailbox import Mailbox
from dit_accel.passes.patch_parallel.rows import TokenRows
from dit_accel.passes.patch_parallel.splits import Cut
from dit_accel.runtime.patch import Patch
from dit_accel.runtime.trees import Tree, map_tree


@dataclass(slots=True, kw_only=True)
class Place:
    """What the attention of one denoiser shares in one call.

    Attributes:
        mailbox: Of this guidance branch.
        tokens: How the tokens lie; of a UNet those of its finest grid.
        halo: Share of the neighbours' rows that stale attention sees; ``None``: all rows of all ranks.
        as_int8: Send keys and values in 8 bits.
    """

    mailbox: Mailbox
    tokens: TokenRows
    halo: float | None = None
    as_int8: bool = False


class Stage:
    """What the patched modules of one denoiser look at.

    Attributes:
        place: Of the running call; ``None``: every module does what it always does.
    """

    place: Place | None = None


class CutOutput(Patch[nn.Module]):
    """The ``forward`` of a module behind which this rank goes on with its own rows."""

    def __init__(self, module: nn.Module, stage: Stage, cut: Cut) -> None:
        super().__init__(module, "forward")
        self.stage = stage
        self.cut = cut

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        output, place = self.original(*args, **kwargs), self.stage.place
        return output if place is None else map_tree(lambda tensor: self._rows(place.tokens, tensor), output)

    def _rows(self, tokens: TokenRows, tensor: torch.Tensor) -> torch.Tensor:
        cut = self.cut
        if cut.kind == "rows":
            return tokens.share.cut(tensor, cut.dim).contiguous()
        return tokens.cut(tensor, cut.dim, with_text=cut.with_text)


class CutPerToken(Patch[nn.Module]):
    """The ``forward`` of a module some of whose outputs may have one vector for each token, [B, N, C]."""

    def __init__(self, module: nn.Module, stage: Stage) -> None:
        super().__init__(module, "forward")
        self.stage = stage

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        output, place = self.original(*args, **kwargs), self.stage.place
        # Only in a call with one timestep for each token; else a text that is as long would be taken for the picture.
        if place is None or not kwargs.get("timestep_seq_len"):
            return output
        temb, projected, *rest = output
        cut = [place.tokens.cut(tensor, 1, with_text=False) for tensor in (temb, projected)]
        return (*cut, *rest)


class GatherOutput(Patch[nn.Module]):
    """The ``forward`` of the last module, behind which every rank has everything: tokens [B, n, C]."""

    layer = "output"

    def __init__(self, module: nn.Module, stage: Stage) -> None:
        super().__init__(module, "forward")
        self.stage = stage

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        output: torch.Tensor = self.original(*args, **kwargs)
        place = self.stage.place
        return output if place is None else self._gathered(place, output)

    def _gathered(self, place: Place, own: torch.Tensor) -> torch.Tensor:
        return place.tokens.whole(gather_now(place, self.layer, own, 1), 1)


class GatherRows(GatherOutput):
    """The same of a picture [B, C, h, W]."""

    def _gathered(self, place: Place, own: torch.Tensor) -> torch.Tensor:
        return torch.cat(gather_now(place, self.layer, own, 2), 2)


def gather_now(place: Place, layer: str, own: torch.Tensor, dim: int) -> list[torch.Tensor]:
    """Everybody's part of the output, waited for: the next latents are made of all of it."""
    comm = place.mailbox.comm
    sizes = place.tokens.share.scaled(own.shape[dim])
    shapes = [(*own.shape[:dim], size, *own.shape[dim + 1 :]) for size in sizes]
    phase, comm.phase = comm.phase, "output"
    try:
        return comm.all_gather(layer, own, shapes).take()
    finally:
        comm.phase = phase
