"""The wrapped modules: what stands in place of a site's ``forward`` and of the denoiser's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dit_accel.families.base import BoundSite
from dit_accel.families.fit import CALLED_AGAIN, misfit
from dit_accel.ledger import Patch
from dit_accel.schedules.lowering import COMPUTE, REUSE, SKIP, STORE

if TYPE_CHECKING:
    from dit_accel.runtime import DenoiserRuntime

Tree = Any  # a tensor, or a nested tuple, list or dict (a model output) of tensors and None


def map_tree(function: Callable[[torch.Tensor], torch.Tensor], tree: Tree) -> Tree:
    """Apply ``function`` to every tensor of a nested tuple, list or dict; other leaves stay."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return type(tree)(**{key: map_tree(function, item) for key, item in tree.items()})
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_tree(function, item) for item in tree)
    return tree


def leaves(tree: Tree) -> list[torch.Tensor]:
    """The tensors of a nested tuple, list or dict, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, (tuple, list)):
        return [tensor for item in tree for tensor in leaves(item)]
    return []


def version(tensor: torch.Tensor) -> int:
    """The in-place modification counter of a tensor; -1 for inference tensors, which have none."""
    return -1 if tensor.is_inference() else tensor._version


def versions(tree: Tree) -> tuple[int, ...]:
    """The counters of all tensors of a tree."""
    return tuple(version(tensor) for tensor in leaves(tree))


def hollow(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros of the same shape, dtype and device that take the memory of one element."""
    return tensor.new_zeros(()).expand(tensor.shape)


def crumb(tensor: torch.Tensor) -> torch.Tensor:
    """The first token of a sequence [B, N, C]: stands in for a norm whose readers do not look.

    The modulation that native code applies to it then costs next to nothing, where on the whole sequence it would be
    a good part of what a reused step takes.
    """
    return tensor[:, :1] if tensor.dim() == 3 else tensor


def placeholder(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros of the same shape, dtype and device that native code may write to."""
    return torch.zeros_like(tensor)


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
        self.site_id = site.info.id
        self.streams = site.streams
        self.full_length = site.full_length
        self.hollows = hollows
        # T2I adapters are added in place to what these hand on (not to their skips), also when nobody reads it.
        self.is_written = site.info.kind in ("down_block", "mid_block")

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        runtime = self.runtime
        position = self.position
        action = runtime.actions[position]
        if runtime.counting and not torch.compiler.is_compiling():
            runtime.count(position, action)
        if action in (COMPUTE, STORE):
            output = self.original(*args, **kwargs)
            if action == STORE:
                # A kept value is let go before the next one is stored: this is the second call in one of the denoiser.
                if runtime.slots[position] is not None:
                    runtime.left_out.add(self.site_id, CALLED_AGAIN)
                runtime.slots[position] = self._kept(output, args, kwargs)
                if runtime.counting:  # at once: native code may modify the output before this call ends
                    runtime.versions[position] = versions(runtime.slots[position])
            if self.hollows:
                runtime.hollows[position] = self._hollow(output)
            return output
        if action == REUSE:
            return self._reused(args, kwargs)
        assert action == SKIP, action
        if self.hollows:
            return runtime.hollows[position]
        given = args[0] if args else next(iter(kwargs.values()))
        return given if self.full_length else crumb(given)

    def _hollow(self, output: Tree) -> Tree:
        if not self.is_written:
            return map_tree(hollow, output)
        if isinstance(output, tuple):
            return (map_tree(placeholder, output[0]), *map_tree(hollow, output[1:]))
        return map_tree(placeholder, output)

    def _kept(self, output: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tree:
        if self.streams:
            outputs = output if isinstance(output, (tuple, list)) else (output,)
            inputs = self._inputs(args, kwargs)
            problem = misfit([name for _, name in self.streams], inputs, output)
            if problem is not None:
                self.runtime.left_out.add(self.site_id, problem)
                return None
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

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        return [args[place] if place < len(args) else kwargs.get(name) for place, name in self.streams]


class Gate(Patch[nn.Module]):
    """The denoiser's ``forward``: asks the clock where we are, sets the row, runs, keeps the books."""

    def __init__(self, denoiser: nn.Module, runtime: "DenoiserRuntime") -> None:
        super().__init__(denoiser, "forward")
        self.runtime = runtime

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.runtime.schedule_for is None:
            return self.original(*args, **kwargs)
        if torch.compiler.is_compiling():
            return _call_outside_graph(self.runtime, self.original, args, kwargs)
        return self.runtime.call(self.original, args, kwargs)


@torch.compiler.disable(reason="dit-accel: compile with pipe.transformer.compile() or CompileConfig, row by row")
def _call_outside_graph(
    runtime: "DenoiserRuntime", original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    runtime.warn(
        f"'{runtime.name}' was compiled around the acceleration with torch.compile(module); it now runs uncompiled. "
        "Compile it with pipe.transformer.compile() or a CompileConfig in the plan instead."
    )
    return runtime.call(original, args, kwargs)
