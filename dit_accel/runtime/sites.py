"""What stands in place of a site's ``forward``; it sees the frame of the call and nothing else."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import BoundSite
from dit_accel.families.fit import CALLED_AGAIN, misfit
from dit_accel.runtime.call import Frame
from dit_accel.runtime.patch import Patch
from dit_accel.runtime.trees import Tree, crumb, hollow, map_tree, placeholder, versions
from dit_accel.schedules.lowering import COMPUTE, REUSE, SKIP, STORE


class Wrapped(Patch[nn.Module]):
    """A site's ``forward``: does what the current row says for its position.

    The row is a tuple of strings, so a compiler sees a constant and builds one graph for each distinct row.

    Args:
        module: The wrapped module.
        frame: Of the denoiser.
        position: Index of this site in the graph.
        site: What is known of it.
    """

    def __init__(self, module: nn.Module, frame: Frame, position: int, site: BoundSite) -> None:
        super().__init__(module, "forward")
        self.frame = frame
        self.position = position
        self.site_id = site.info.id
        self.streams = site.streams
        self.auxiliary = site.info.auxiliary

    def action(self) -> str:
        """What the row says, counted."""
        frame, position = self.frame, self.position
        action = frame.actions[position]
        if frame.counting and not torch.compiler.is_compiling():
            frame.called[position] = True
            if not self.auxiliary:
                frame.reused += action == REUSE
                frame.computed += action in (COMPUTE, STORE)
        return action

    def keep(self, position: int, value: Tree) -> None:
        """Put a value into a site's slot, a copy of it where someone is known to modify it in place."""
        frame = self.frame
        frame.slots[position] = map_tree(torch.clone, value) if frame.clones[position] else value
        if frame.counting:  # at once: native code may modify the output before this call ends
            frame.versions[position] = versions(frame.slots[position])

    def recall(self, position: int) -> Tree:
        """What answers from a site's slot."""
        frame = self.frame
        kept, keeper = frame.slots[position], frame.keepers[position]
        if keeper is not None:
            return keeper.recall(kept, frame.numbers[position])
        return map_tree(torch.clone, kept) if frame.clones[position] else kept

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The residual streams among the arguments."""
        return [args[place] if place < len(args) else kwargs.get(name) for place, name in self.streams]


class SiteForward(Wrapped):
    """The wrapper of one module whose output is kept.

    Args:
        hollows: Whether a zero stand-in must be at hand, because the site may be skipped and is no auxiliary.
    """

    def __init__(self, module: nn.Module, frame: Frame, position: int, site: BoundSite, *, hollows: bool) -> None:
        super().__init__(module, frame, position, site)
        self.full_length = site.full_length
        self.hollows = hollows
        # T2I adapters are added in place to what these hand on (not to their skips), also when nobody reads it.
        self.is_written = site.info.kind in ("down_block", "mid_block")

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        action = self.action()
        if action in (COMPUTE, STORE):
            output = self.original(*args, **kwargs)
            if action == STORE:
                if self.frame.slots[self.position] is not None:  # what was kept is let go before another is stored
                    self.frame.left_out.add(self.site_id, CALLED_AGAIN)
                self.keep(self.position, self._change(output, args, kwargs) if self.streams else output)
            if self.hollows:
                self.frame.hollows[self.position] = self._hollow(output)
            return output
        if action == REUSE:
            kept = self.recall(self.position)
            return self._restored(self.given(args, kwargs), kept) if self.streams else kept
        assert action == SKIP, action
        if self.hollows:
            return self.frame.hollows[self.position]
        first = args[0] if args else next(iter(kwargs.values()))
        return first if self.full_length else crumb(first)

    def _hollow(self, output: Tree) -> Tree:
        if not self.is_written:
            return map_tree(hollow, output)
        if isinstance(output, tuple):
            return (map_tree(placeholder, output[0]), *map_tree(hollow, output[1:]))
        return map_tree(placeholder, output)

    def _change(self, output: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tree:
        given = self.given(args, kwargs)
        problem = misfit([name for _, name in self.streams], given, output)
        if problem is not None:
            self.frame.left_out.add(self.site_id, problem)
            return None
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        # The last block of SD3 returns None for the text, which nobody reads after it.
        return tuple(None if out is None else out - before for out, before in zip(outputs, given, strict=True))

    def _restored(self, given: list[torch.Tensor], changes: Tree) -> Tree:
        outputs = tuple(None if d is None else x + d for x, d in zip(given, changes, strict=True))
        return outputs if len(outputs) > 1 else outputs[0]
