"""The wrapped modules: what stands in place of a site's ``forward`` and of the denoiser's."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dit_accel.families.base import BoundSite
from dit_accel.runtime.ledger import Patch
from dit_accel.runtime.trees import Tree, crumb, hollow, map_tree, versions
from dit_accel.schedules.lowering import COMPUTE, REUSE, SKIP, STORE

if TYPE_CHECKING:
    from dit_accel.runtime.denoiser import DenoiserRuntime


class SiteForward(Patch[nn.Module]):
    """A site's ``forward``: does what the current row says for its position.

    The row is a tuple of strings, so a compiler sees a constant and builds one graph for each distinct row.

    Args:
        module: The wrapped module.
        runtime: Holds the current row and the kept values.
        position: Index of this site in the program.
        site: What is known of it: its streams, and whether a stand-in for it must have full length.
        hollows: Whether a zero stand-in must be at hand, because the site may be skipped and is no auxiliary.
    """

    def __init__(
        self,
        module: nn.Module,
        runtime: "DenoiserRuntime",
        position: int,
        site: BoundSite,
        *,
        hollows: bool,
    ) -> None:
        super().__init__(module, "forward")
        self.runtime = runtime
        self.position = position
        self.streams = site.streams
        self.full_length = site.full_length
        self.hollows = hollows

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        runtime = self.runtime
        position = self.position
        action = runtime.actions[position]
        if runtime.counting and not torch.compiler.is_compiling():
            runtime.count(position, action)
        if action in (COMPUTE, STORE):
            output = self.original(*args, **kwargs)
            if action == STORE:
                runtime.slots[position] = self._kept(output, args, kwargs)
                if runtime.counting:  # at once: native code may modify the output before this call ends
                    runtime.versions[position] = versions(runtime.slots[position])
            if self.hollows:
                runtime.hollows[position] = map_tree(hollow, output)
            return output
        if action == REUSE:
            return self._reused(args, kwargs)
        assert action == SKIP, action
        if self.hollows:
            return runtime.hollows[position]
        given = args[0] if args else next(iter(kwargs.values()))
        return given if self.full_length else crumb(given)

    def _kept(self, output: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tree:
        if self.streams:
            outputs = output if isinstance(output, (tuple, list)) else (output,)
            inputs = self._inputs(args, kwargs)
            # The last block of SD3 returns None for the text, which nobody reads after it.
            return tuple(None if out is None else out - given for out, given in zip(outputs, inputs, strict=False))
        return map_tree(torch.clone, output) if self.runtime.clones[self.position] else output

    def _reused(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tree:
        kept = self.runtime.slots[self.position]
        if self.streams:
            inputs = self._inputs(args, kwargs)
            restored = tuple(None if d is None else given + d for given, d in zip(inputs, kept, strict=True))
            return restored if len(self.streams) > 1 else restored[0]
        correction = self.runtime.corrections[self.position]
        if correction is not None:
            scale, shift = correction
            if kept.dim() == 4:  # [B, C, H, W], not [B, N, C]
                scale, shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)
            return kept * scale + shift
        return map_tree(torch.clone, kept) if self.runtime.clones[self.position] else kept

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        return [args[place] if place < len(args) else kwargs[name] for place, name in self.streams]
