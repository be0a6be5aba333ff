"""Runs the denoiser through one compiled function per distinct row."""

import types
from collections.abc import Callable, Hashable
from typing import Any

from dit_accel.schedules.lowering import Row

CompileFunction = Callable[[Callable[..., Any]], Callable[..., Any]]


class RowCompiler:
    """One compiled function for each distinct row: equal actions, and equal variant.

    Every row gets a code object of its own, so that the compiler's limit on recompilations counts per row.

    Args:
        compile_function: Turns a function into its compiled form.
    """

    def __init__(self, compile_function: CompileFunction) -> None:
        self.compile_function = compile_function
        self.rows: dict[tuple[tuple[str, ...], Hashable], Callable[..., Any]] = {}

    def __call__(self, row: Row, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = (row.actions, row.variant)
        if key not in self.rows:
            self.rows[key] = self.compile_function(_own_code(original, len(self.rows)))
        return self.rows[key](*args, **kwargs)


def _own_code(original: Callable[..., Any], number: int) -> Callable[..., Any]:
    def row(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    code = row.__code__.replace(co_name=f"row_{number}")
    return types.FunctionType(code, row.__globals__, f"row_{number}", None, row.__closure__)
