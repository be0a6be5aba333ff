"""Where calls of a denoiser come in: what stands in place of its ``forward``, underneath every hook."""

from typing import Any, Protocol

import torch
from torch import nn

from dit_accel.runtime.patch import Patch


class Answers(Protocol):
    """What answers for the denoiser: its runtime.

    Attributes:
        released: Whether it has been taken off; calls then are the denoiser's own.
        name: Of the denoiser, for messages.
    """

    released: bool

    @property
    def name(self) -> str: ...

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Any:
        """One call of the denoiser."""
        ...

    def warn(self, message: str, /) -> None:
        """Tell the user."""
        ...


class Gate(Patch[nn.Module]):
    """The denoiser's ``forward``.

    Args:
        denoiser: The denoiser.
        runtime: What answers for it.
    """

    def __init__(self, denoiser: nn.Module, runtime: Answers) -> None:
        super().__init__(denoiser, "forward")
        self.runtime = runtime

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.runtime.released:
            return self.original(*args, **kwargs)
        if torch.compiler.is_compiling():
            return _call_outside_graph(self.runtime, args, kwargs)
        return self.runtime.call(args, kwargs)


@torch.compiler.disable(reason="dit-accel: compile with pipe.transformer.compile() or CompileConfig, row by row")
def _call_outside_graph(runtime: Answers, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    runtime.warn(
        f"'{runtime.name}' was compiled around the acceleration with torch.compile(module); it now runs uncompiled. "
        "Compile it with pipe.transformer.compile() or a CompileConfig in the plan instead."
    )
    return runtime.call(args, kwargs)
