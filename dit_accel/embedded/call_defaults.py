"""Other defaults for a stock pipeline's call, and a signature that tells them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def with_defaults(stock_call: Callable[..., Any], defaults: Mapping[str, Any]) -> Callable[..., Any]:
    """Make a ``__call__`` that differs from a stock pipeline's in its defaults only.

    Args:
        stock_call: ``__call__`` of the stock class.
        defaults: Defaults by parameter name; each can still be given, by keyword or by position.

    Returns:
        A function whose ``__signature__`` has the new defaults, so that whoever asks it for the number of steps gets
        the one that a plain call takes.
    """
    signature = inspect.signature(stock_call)

    @functools.wraps(stock_call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        by_position = dict(zip(list(signature.parameters)[1:], args, strict=False))
        signature.bind_partial(self, *args, **kwargs)  # says what is wrong with them, as a call of the stock one would
        return stock_call(self, **{**defaults, **by_position, **kwargs})

    own = [p.replace(default=defaults.get(name, p.default)) for name, p in signature.parameters.items()]
    call.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    return call
