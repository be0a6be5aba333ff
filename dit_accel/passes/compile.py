"""Compile the denoiser row by row: one graph for each distinct row of a schedule, whole and without a break.

In the graph of a row that reuses a module there is no trace of it, nor of the norms and modulations in front of it:
nobody reads them, so the compiler drops them. Which row runs is decided outside the graph, on Python integers.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from dit_accel.errors import ConfigError
from dit_accel.ledger import Patch
from dit_accel.passes.base import PASSES, Pass, PassConfig
from dit_accel.schedules import Schedule

if TYPE_CHECKING:
    from dit_accel.runtime import DenoiserRuntime
    from dit_accel.session import Session, Target

MODES = ("default", "max-autotune-no-cudagraphs")
CompileFunction = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileConfig(PassConfig):
    """Settings of ``torch.compile``.

    Args:
        mode: ``"default"`` or ``"max-autotune-no-cudagraphs"``. The modes with CUDA graphs are refused: a replay
            overwrites the outputs that a cache keeps.
        backend: A backend of ``torch.compile``.
        fullgraph: Fail on a graph break instead of accepting it.
        dynamic: Compile for varying shapes.
        options: Options of the backend.

    Raises:
        ConfigError: Unknown mode.
    """

    type_name: ClassVar[str] = "compile"

    mode: str = "default"
    backend: str = "inductor"
    fullgraph: bool = True
    dynamic: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"compile mode '{self.mode}' is not one of {', '.join(MODES)}; modes with CUDA graphs overwrite kept "
                "outputs when they replay"
            )

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Apply ``torch.compile`` with these settings."""
        arguments: dict[str, Any] = {"backend": self.backend, "fullgraph": self.fullgraph, "dynamic": self.dynamic}
        if self.options:
            arguments["options"] = dict(self.options)
        elif self.mode != "default":
            arguments["mode"] = self.mode
        compiled: Callable[..., Any] = torch.compile(function, **arguments)
        return compiled


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


def apply_compile(session: "Session", config: CompileConfig) -> None:
    """Compile every denoiser of the session."""
    for runtime in session.runtimes:
        compile_rows(runtime, config.compile)


def compile_rows(runtime: "DenoiserRuntime", compile_function: CompileFunction) -> None:
    """Run a denoiser compiled from its next call on; without a schedule its single row computes everything."""
    if runtime.schedule_for is None:
        runtime.use(lambda num_steps: Schedule(num_steps, {}))
    runtime.runner = RowCompiler(compile_function)


def adopt_users_compile(session: "Session") -> None:
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

    def __init__(self, denoiser: nn.Module, runtime: "DenoiserRuntime") -> None:
        super().__init__(denoiser, "compile")
        self.runtime = runtime

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        compile_rows(self.runtime, lambda function: torch.compile(function, *args, **kwargs))


def _obstacles(target: "Target") -> list[str]:
    hooked = [name for name, module in target.denoiser.named_modules() if hasattr(module, "_hf_hook")]
    if hooked:
        return [f"accelerate's offload hooks are on {len(hooked)} modules and cannot be traced; compile or offload"]
    return []


PASSES.register("compile")(
    Pass(
        config=CompileConfig,
        summary="compiles the denoiser with torch.compile, one whole graph per distinct row of the schedule",
        order=90,
        obstacles=_obstacles,
        apply=apply_compile,
    )
)
