"""Keeps the modules of one denoiser wrapped that its rows touch, wherever adapters and hooks have moved them."""

from collections.abc import Sequence

from torch import nn

from dit_accel.families.base import BoundSite, submodule
from dit_accel.runtime.call import Frame
from dit_accel.runtime.ledger import RUNTIME, PatchLedger
from dit_accel.runtime.sites import SiteForward, Wrapped
from dit_accel.runtime.spans import Span, SpanForward
from dit_accel.schedules.lowering import RowSet


class Wrappers:
    """The wrapper of each site, put in place when a row first needs it.

    Args:
        denoiser: Whose sites they are.
        sites: All of them.
        frame: What wrappers see.
        ledger: Records every patch.
    """

    def __init__(self, denoiser: nn.Module, sites: Sequence[BoundSite], frame: Frame, ledger: PatchLedger) -> None:
        self.denoiser = denoiser
        self.sites = sites
        self.frame = frame
        self.ledger = ledger
        self.spans: dict[int, Span] = {}  # by the position of each of their blocks
        self._by_position: dict[int, Wrapped] = {}

    def __len__(self) -> int:
        return len(self._by_position)

    def ensure(self, rows: RowSet) -> None:
        """Make sure that every site the rows touch is wrapped, and wrapped where it now is.

        Loading a LoRA replaces linear layers; a site that was such a layer is then found anew.
        """
        for position in rows.active:
            site = self.sites[position]
            if not site.path:
                continue  # the whole model: the gate itself answers
            module = submodule(self.denoiser, site.path)
            wrapped = self._by_position.get(position)
            hollows = position in rows.skipped and not site.info.auxiliary
            if wrapped is not None and wrapped.owner is module and wrapped.in_place():
                if isinstance(wrapped, SiteForward):
                    wrapped.hollows = wrapped.hollows or hollows
                continue
            if wrapped is not None:
                self.ledger.undo_on(wrapped.owner, by=RUNTIME)
            if module is None:
                continue
            forward = self._wrapper(module, position, site, hollows=hollows)
            self.ledger.set(module, "forward", forward, by=RUNTIME)
            self._by_position[position] = forward

    def _wrapper(self, module: nn.Module, position: int, site: BoundSite, *, hollows: bool) -> Wrapped:
        span = self.spans.get(position)
        if span is not None:
            return SpanForward(module, self.frame, position, site, span)
        return SiteForward(module, self.frame, position, site, hollows=hollows)
