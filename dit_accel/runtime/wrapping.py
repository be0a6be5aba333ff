"""Keeps the modules of one denoiser wrapped that its programs touch, wherever adapters and hooks have moved them."""

from typing import TYPE_CHECKING

from dit_accel.families.base import submodule
from dit_accel.runtime.sites import SiteForward
from dit_accel.schedules.lowering import Program

if TYPE_CHECKING:
    from dit_accel.runtime.denoiser import DenoiserRuntime


class Wrappers:
    """The :class:`SiteForward` of each site, put in place when a program first needs it.

    Args:
        runtime: Whose sites they are.
    """

    def __init__(self, runtime: "DenoiserRuntime") -> None:
        self.runtime = runtime
        self._by_position: dict[int, SiteForward] = {}

    def __len__(self) -> int:
        return len(self._by_position)

    def ensure(self, program: Program) -> None:
        """Make sure that every site the program touches is wrapped, and wrapped where it now is.

        Loading a LoRA replaces linear layers; a site that was such a layer is then found anew.
        """
        runtime = self.runtime
        for position in program.active:
            site = runtime.layout.sites[position]
            if not site.path:
                continue  # the whole model: the gate itself answers
            module = submodule(runtime.denoiser, site.path)
            wrapped = self._by_position.get(position)
            hollows = position in program.skipped and not site.info.auxiliary
            if wrapped is not None and wrapped.owner is module and wrapped.in_place():
                wrapped.hollows = wrapped.hollows or hollows
                continue
            if wrapped is not None:
                runtime.ledger.undo_on(wrapped.owner)
            if module is None:
                continue
            forward = SiteForward(module, runtime, position, site, hollows=hollows)
            runtime.ledger.set(module, "forward", forward)
            self._by_position[position] = forward
