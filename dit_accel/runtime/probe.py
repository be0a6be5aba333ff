"""A look at the beginning of a denoiser call, before it is decided how it runs.

The denoiser's own ``forward`` runs eagerly until a module of it is reached, and is left there. So a row source can
decide from what the first block would see, outside every graph, at the price of the embeddings in front of it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.runtime.call import Call, Frame
from dit_accel.runtime.denoiser import DenoiserRuntime


class _Reached(BaseException):
    """Leaves the denoiser; no ``except Exception`` on the way may keep it."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = args, kwargs


def arguments_of(runtime: DenoiserRuntime, call: Call, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``module`` is given first in this call, positional and named arguments.

    Args:
        runtime: Of the denoiser.
        call: About to be made; every site computes while it is looked into.
        module: A submodule of the denoiser; it does not run.

    Raises:
        UnsupportedModelError: The call does not reach the module.
    """

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args, kwargs)

    handle = module.register_forward_pre_hook(leave, with_kwargs=True)
    try:
        with _eager(runtime.frame), _uncounted(runtime.frame):
            runtime.gate.original(*call.args, **call.kwargs)
    except _Reached as reached:
        return reached.arguments
    finally:
        handle.remove()
    raise UnsupportedModelError(f"'{runtime.name}' ran without calling the {type(module).__name__} that decides")


def hooked(denoiser: nn.Module) -> list[str]:
    """Names of the modules inside a denoiser with hooks that a forward pass left half-way would leave half done."""
    return [
        name
        for name, module in denoiser.named_modules()
        if name and (hasattr(module, "_hf_hook") or getattr(vars(module).get("_diffusers_hook"), "hooks", None))
    ]


@contextmanager
def _uncounted(frame: Frame) -> Iterator[None]:
    counting, frame.counting = frame.counting, False
    try:
        yield
    finally:
        frame.counting = counting


def _eager(frame: Frame) -> AbstractContextManager[Any]:
    """Blocks compiled one by one are not traced for a look; where all is eager, the compiler stays unloaded."""
    if frame.counting:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
