"""TeaCache: skips all blocks while the change of the first block's input says that the output changes little.

With m the modulated input of the first attention and d the relative L1 change of m since the last step, a polynomial
p predicts the relative change of the output. The p(d) add up; while the sum is below the threshold, what the blocks
added to the residual stream when they were last computed is added again. The first and the last step are always
computed.
Source: Liu et al., arXiv 2411.19108.

Departures: m is taken where the first attention reads it, so that one code serves every family; p is clipped at zero;
a change that is no number counts as a large one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from dit_accel.errors import ConfigError
from dit_accel.families.base import Layout, submodule
from dit_accel.families.targets import Target
from dit_accel.passes.base import Pass, register_pass
from dit_accel.passes.thresholds import (
    STREAM,
    BranchState,
    ThresholdRows,
    block_positions,
    check_threshold,
    effect_of_thresholds,
    no_stack,
    relative_change,
)
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Call, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.patch import Patch
from dit_accel.runtime.probe import Arguments, arguments_of, hooked, look_ahead
from dit_accel.runtime.sockets import DECIDES
from dit_accel.runtime.spans import Span
from dit_accel.runtime.trees import Tree
from dit_accel.schedules.lowering import Row

NAME = "teacache"

Coefficients = tuple[float, ...]
"""Of a polynomial, the highest power first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeaCacheConfig(PassConfig):
    """Skip all blocks while the predicted change of the output adds up to less than a threshold.

    Args:
        threshold: Of the sum. The authors' mildest on FLUX.1-dev is 0.25; 0 computes everything.
        coefficients: Of the polynomial, highest power first, fitted to this model by
            :func:`dit_accel.calibration.teacache.fit_teacache`; by name of the denoiser where a pipeline has several.
        num_steps: Denoiser evaluations of the runs that they were fitted to, if known: other runs are warned of.
        r2: Share of the variance that the fit explains, if known.

    Raises:
        ConfigError: A field has the wrong type, or there are no coefficients.
    """

    type_name: ClassVar[str] = NAME

    threshold: float = 0.25
    coefficients: Coefficients | Mapping[str, Coefficients] = ()
    num_steps: int | None = None
    r2: float | None = None

    def __post_init__(self) -> None:
        check_threshold(NAME, self.threshold)
        given = self.coefficients
        if not given:
            raise ConfigError(
                "'teacache' needs the coefficients of this model, and there is no honest default: fit them with "
                "dit_accel.calibration.teacache.fit_teacache(pipe, run)"
            )
        checked = {k: _numbers(v) for k, v in given.items()} if isinstance(given, Mapping) else _numbers(given)
        object.__setattr__(self, "coefficients", checked)
        if self.num_steps is not None and not (type(self.num_steps) is int and self.num_steps > 0):
            raise ConfigError(f"'teacache': num_steps must be a positive whole number, got {self.num_steps!r}")
        if self.r2 is not None and not isinstance(self.r2, int | float):
            raise ConfigError(f"'teacache': r2 must be a number, got {self.r2!r}")

    def coefficients_of(self, denoiser: str) -> Coefficients | None:
        """Those of one denoiser of a pipeline; ``None``: there are none for it."""
        if isinstance(self.coefficients, Mapping):
            return self.coefficients.get(denoiser)
        return self.coefficients


@dataclass(slots=True, kw_only=True)
class TeaCacheState(BranchState):
    """What a trajectory of one guidance branch remembers.

    Attributes:
        modulated: Input of the first attention at the last call.
        change: Relative change of it at the current call; ``None`` at the first one.
        distance: Sum of the predicted changes since the blocks were last computed.
    """

    modulated: torch.Tensor | None = None
    change: float | None = None
    distance: float = 0.0


class TeaCacheRows(ThresholdRows[TeaCacheState]):
    """Decides by the change of the first attention's input.

    An eager call decides when it enters its first block, where that input is at hand. What is compiled must be chosen
    before, by a look ahead.

    Args:
        runtime: Of the denoiser.
        span: All its blocks.
        config: The threshold and the polynomial.
        attention: Path of the first attention.
    """

    state = TeaCacheState
    measured = "the sum of the predicted changes"

    def __init__(self, runtime: DenoiserRuntime, span: Span, config: TeaCacheConfig, attention: str) -> None:
        super().__init__(runtime, span, config.threshold)
        self.config = config
        self.coefficients = config.coefficients_of(runtime.name) or ()
        self._path = attention

    @property
    def attention(self) -> nn.Module:
        """The first one, wherever adapters and hooks have moved it."""
        found = submodule(self.runtime.target.denoiser, self._path)
        assert found is not None
        return found

    def forget(self, run: Run) -> None:
        """A run begins: see that the polynomial is for such, and that nothing keeps it from looking ahead."""
        super().forget(run)
        name, fitted = self.runtime.name, self.config.num_steps
        if fitted is not None and fitted != run.num_steps:
            self.runtime.warn(
                f"TeaCache's coefficients of '{name}' were fitted to runs of {fitted} steps and this one has "
                f"{run.num_steps}: what they predict of it is not known; fit them anew"
            )
        hooks = [] if self.runtime.frame.counting else hooked(self.runtime.target.denoiser)
        self.blind = bool(hooks)
        if hooks:
            self.runtime.warn(
                f"TeaCache computes every step of '{name}', which is compiled: it would have to look ahead, and hooks "
                f"of offloading or of another cache are on {len(hooks)} modules inside it, e.g. '{hooks[0]}'; compile "
                "or offload"
            )

    def decide(self, call: Call, state: TeaCacheState) -> Row:
        """What runs eagerly begins as if it computed all blocks."""
        if self.runtime.frame.counting:
            state.call = call
            return self.computed
        may_skip = self.may_skip(call, state, look_ahead(self.runtime, call, self.attention))
        return self.answered if may_skip else self.computed

    def may_skip(self, call: Call, state: TeaCacheState, arguments: Arguments) -> bool:
        """Whether the predicted changes add up to less than the threshold; else they count from zero again.

        Args:
            call: Is about to be made, or running.
            state: Of its branch.
            arguments: Of the first attention.
        """
        args, kwargs = arguments
        before, state.modulated = state.modulated, kwargs[STREAM] if STREAM in kwargs else args[0]
        if before is not None:
            state.change = relative_change(before, state.modulated)
            state.distance += max(polynomial(self.coefficients, state.change), 0.0)
        may = before is not None and call.step not in (0, state.last)
        if may and state.distance < self.threshold:
            return True
        if may:
            self.note(state.distance)
        state.distance = 0.0
        return False


class FirstBlock(Patch[nn.Module]):
    """The first block's ``forward``, which decides whether any block runs.

    Args:
        block: The first one.
        rows: What there is to choose from.
    """

    def __init__(self, block: nn.Module, rows: TeaCacheRows) -> None:
        super().__init__(block, "forward")
        self.rows = rows

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        rows, state = self.rows, self.rows.unsettled()
        if state is not None:
            call, state.call = state.call, None
            assert call is not None
            run = partial(self.original, *args, **kwargs)
            may_skip = rows.may_skip(call, state, arguments_of(rows.attention, rows.runtime.frame, run))
            if may_skip and not rows.skip(call):
                state.distance = 0.0  # computed after all
        return self.original(*args, **kwargs)


def polynomial(coefficients: Coefficients, x: float) -> float:
    """Its value, by Horner's rule."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def apply_teacache(runtime: DenoiserRuntime, config: TeaCacheConfig) -> None:
    """Keep all blocks of one denoiser as one, and skip them while little changes."""
    layout = runtime.target.layout
    span = Span(positions=block_positions(layout), streams=(STREAM,))
    attention, block = _first_attention(layout), submodule(runtime.target.denoiser, layout.sites[span.first].path)
    assert attention is not None and block is not None
    rows = TeaCacheRows(runtime, span, config, attention)
    runtime.decide(rows, by=NAME)
    runtime.span(span, by=NAME)
    runtime.each_run(rows.forget, by=NAME)
    runtime.ensure_wrapped(rows.all_rows)
    runtime.ledger.set(block, "forward", FirstBlock(block, rows), by=NAME)  # over the wrapper, whose action it decides


def _numbers(given: Any) -> Coefficients:
    numbers = tuple(given) if isinstance(given, list | tuple) else ()
    if not numbers or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
        raise ConfigError(f"'teacache': coefficients must be finite numbers, the highest power first, got {given!r}")
    return tuple(float(x) for x in numbers)


def _first_attention(layout: Layout) -> str | None:
    """Path of the attention that reads the first block's modulated input."""
    blocks = block_positions(layout)
    first = layout.sites[blocks[0]].info.id if blocks else None
    inside = [site for site in layout.sites if site.info.parent == first and site.info.kind.endswith("_attn")]
    return inside[0].path if inside else None


def _obstacles(target: Target, config: TeaCacheConfig) -> list[str]:
    missing = no_stack(target, apart=0)
    if missing:
        return missing
    found = []
    if _first_attention(target.layout) is None:
        found.append("its first block has no attention whose input could be watched: use first_block_cache")
    if config.coefficients_of(target.name) is None:
        found.append(f"the coefficients are for {', '.join(config.coefficients)}: fit them to this pipeline")  # type: ignore[arg-type]
    return found


register_pass(
    Pass(
        config=TeaCacheConfig,
        summary="skips all blocks while the change of the first block's input predicts that the output changes little",
        phase="rows",
        claims=frozenset((DECIDES,)),
        obstacles=_obstacles,
        example=lambda: TeaCacheConfig(coefficients=(1.0, 0.0)),
        apply=apply_teacache,
        effect=effect_of_thresholds,
    )
)
