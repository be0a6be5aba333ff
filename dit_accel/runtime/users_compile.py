"""Makes ``torch.compile`` of the user's own, before or after acceleration, work row by row.

A denoiser that came compiled would hide the rows inside its graph; one that is compiled later with
``pipe.transformer.compile()`` would trace our book-keeping. Both are given row compilation instead.
"""

from typing import Any

import torch
from torch import nn

from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.ledger import RUNTIME
from dit_accel.runtime.patch import Patch


def adopt_users_compile(runtime: DenoiserRuntime, outer: Any) -> None:
    """Take over what the user has compiled; a plan's own compile settings win over it.

    Args:
        runtime: Of the denoiser.
        outer: What the pipeline holds: the denoiser, or a wrapper of ``torch.compile`` around it.
    """
    denoiser = runtime.target.denoiser
    if isinstance(outer, torch._dynamo.OptimizedModule):
        if runtime.compiler is None:
            runtime.compile(outer.dynamo_ctx)
        runtime.ledger.set(outer, "forward", _Bypass(outer, denoiser), by=RUNTIME)
    elif vars(denoiser).get("_compiled_call_impl") is not None:
        if runtime.compiler is None:
            runtime.compile(torch.compile)
        runtime.ledger.set(denoiser, "_compiled_call_impl", None, by=RUNTIME)
    runtime.ledger.set(denoiser, "compile", _UsersCompile(denoiser, runtime), by=RUNTIME)


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
        self.runtime.compile(lambda function: torch.compile(function, *args, **kwargs))
