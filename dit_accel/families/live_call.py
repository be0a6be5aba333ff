"""The arguments of a denoiser's first call in a real run of its pipeline."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from dit_accel.errors import UnsupportedModelError


class _CaughtError(Exception):
    """Ends the run once the call is known."""


def live_call(denoiser: nn.Module, run: Callable[[], object]) -> dict[str, Any]:
    """Run a pipeline up to its first call of ``denoiser`` and return that call's arguments by name.

    Args:
        denoiser: The module that the pipeline will call; it is not run.
        run: Calls the pipeline.

    Raises:
        UnsupportedModelError: The pipeline came to an end without calling it.
    """
    caught: dict[str, Any] = {}

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                caught.update(value)
            else:
                caught[name] = value
        raise _CaughtError

    handle = denoiser.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        run()
    except _CaughtError:
        return caught
    finally:
        handle.remove()
    raise UnsupportedModelError(f"the pipeline ran without calling {type(denoiser).__name__}")
