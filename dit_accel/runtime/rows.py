"""Runs the denoiser row by row through compiled functions, the user's own ``torch.compile`` included."""

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.ledger import Patch
from dit_accel.schedules import Schedule

CompileFunction = Callable[[Callable[..., Any]], Callable[..., Any]]


class RowCompiler:
    """Runs the denoiser through one compiled function per distinct row.

    Every row gets a code object of its own, so that the compiler's limit on recompilations counts per row.

    Args:
        compile_function: Turns a function into its compiled form.
    """

    def __init__(self, compile_function: CompileFunction) -> None:
        self.compile_function = compile_function
        self.rows: dict[tuple[str, ...], Callable[..., Any]] = {}

    def __call__(
        self, actions: tuple[str, ...], original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if actions not in self.rows:
            self.rows[actions] = self.compile_function(_own_code(original, len(self.rows)))
        return self.rows[actions](*args, **kwargs)


def _own_code(original: Callable[..., Any], number: int) -> Callable[..., Any]:
    def row(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    code = row.__code__.replace(co_name=f"row_{number}")
    return types.FunctionType(code, row.__globals__, f"row_{number}", None, row.__closure__)


def compile_rows(runtime: DenoiserRuntime, compile_function: CompileFunction) -> None:
    """Run a denoiser compiled from its next call on; without a schedule its single row computes everything."""
    if runtime.schedule_for is None:
        runtime.use(lambda num_steps: Schedule(num_steps, {}))
    runtime.runner = RowCompiler(compile_function)


def adopt_users_compile(session: Any) -> None:
    """Make ``torch.compile`` of the user's own, before or after acceleration, work row by row.

    A denoiser that came compiled would hide the schedule inside its graph; one that is compiled later with
    ``pipe.transformer.compile()`` would trace our book-keeping. Both are given row compilation instead.
    """
    for target, runtime in zip(session.targets, session.runtimes, strict=True):
        outer = session.pipe if isinstance(session.pipe, nn.Module) else getattr(session.pipe, target.name, None)
        if isinstance(outer, torch._dynamo.OptimizedModule):
            compile_rows(runtime, outer.dynamo_ctx)
            session.ledger.set(outer, "forward", _Bypass(outer, target.denoiser))
        elif vars(target.denoiser).get("_compiled_call_impl") is not None:
            session.ledger.set(target.denoiser, "_compiled_call_impl", None)
            compile_rows(runtime, torch.compile)
        session.ledger.set(target.denoiser, "compile", _UsersCompile(target.denoiser, runtime))


class _Bypass(Patch[nn.Module]):
    """The ``forward`` of a ``torch.compile`` wrapper: goes straight to the module, whose gate runs compiled rows."""

    def __init__(self, outer: nn.Module, denoiser: nn.Module) -> None:
        super().__init__(outer, "forward")
        self.denoiser = denoiser

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.denoiser(*args, **kwargs)


class _UsersCompile(Patch[nn.Module]):
    """``denoiser.compile(...)`` on an accelerated denoiser."""

    def __init__(self, denoiser: nn.Module, runtime: DenoiserRuntime) -> None:
        super().__init__(denoiser, "compile")
        self.runtime = runtime

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        compile_rows(self.runtime, lambda function: torch.compile(function, *args, **kwargs))
