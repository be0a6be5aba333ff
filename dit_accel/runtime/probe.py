"""A look at what a module is given, by running what leads to it and leaving it there.

So a row source can decide from the input of the first attention: inside the first block of an eager call, or, where a
graph would be in the way, before the call and at the price of the embeddings.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.runtime.call import Call, Frame
from dit_accel.runtime.denoiser import DenoiserRuntime

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named."""


class _Reached(BaseException):
    """Leaves what is running; no ``except Exception`` on the way may keep it."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = args, kwargs


def arguments_of(module: nn.Module, frame: Frame, run: Callable[[], object]) -> Arguments:
    """What ``module`` is given when ``run`` first reaches it; what comes after that does not run.

    Args:
        module: It does not run itself.
        frame: Of the denoiser; nothing is counted meanwhile.
        run: Calls something that calls ``module``.

    Raises:
        UnsupportedModelError: It does not.
    """

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args, kwargs)

    counting, frame.counting = frame.counting, False
    handle = module.register_forward_pre_hook(leave, with_kwargs=True)
    try:
        run()
    except _Reached as reached:
        return reached.arguments
    finally:
        handle.remove()
        frame.counting = counting
    raise UnsupportedModelError(f"a call was left at its end: it did not use the {type(module).__name__} looked for")


def look_ahead(runtime: DenoiserRuntime, call: Call, module: nn.Module) -> Arguments:
    """What ``module`` will be given in a call that is about to be made, all of it eager and every site computed.

    It costs what comes before the module. Hooks of modules that are left half-way do not end: see :func:`hooked`.
    """
    with _eager(runtime.frame):
        return arguments_of(module, runtime.frame, lambda: runtime.gate.original(*call.args, **call.kwargs))


def hooked(denoiser: nn.Module) -> list[str]:
    """Names of the modules inside a denoiser with hooks that a forward pass left half-way would leave half done."""
    return [
        name
        for name, module in denoiser.named_modules()
        if name and (hasattr(module, "_hf_hook") or getattr(vars(module).get("_diffusers_hook"), "hooks", None))
    ]


def _eager(frame: Frame) -> AbstractContextManager[Any]:
    """Blocks compiled one by one are not traced for a look; where all is eager, the compiler stays unloaded."""
    if frame.counting:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
