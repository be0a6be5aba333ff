"""Compile the denoiser row by row: one graph for each distinct row of a schedule, whole and without a break.

In the graph of a row that reuses a module there is no trace of it, nor of the norms and modulations in front of it:
nobody reads them, so the compiler drops them. Which row runs is decided outside the graph, on Python integers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target
from dit_accel.passes.base import Pass, register_pass
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.denoiser import DenoiserRuntime

MODES = ("default", "max-autotune-no-cudagraphs")


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


def apply_compile(runtime: DenoiserRuntime, config: CompileConfig) -> None:
    """Compile one denoiser, row by row, from its next call on."""
    runtime.compile(config.compile)


def _obstacles(target: Target, config: CompileConfig) -> list[str]:
    found = []
    hooked = [name for name, module in target.denoiser.named_modules() if hasattr(module, "_hf_hook")]
    if hooked:
        found.append(
            f"accelerate's offload hooks are on {len(hooked)} modules and cannot be traced; compile or offload"
        )
    if config.fullgraph and target.family.graph_break is not None:
        found.append(
            f"its own code breaks the graph ({target.family.graph_break}); CompileConfig(fullgraph=False) accepts that"
        )
    return found


register_pass(
    Pass(
        config=CompileConfig,
        summary="compiles the denoiser with torch.compile, one whole graph per distinct row",
        phase="compile",
        claims=frozenset(("compiles the denoiser",)),
        obstacles=_obstacles,
        example=CompileConfig,
        apply=apply_compile,
    )
)
