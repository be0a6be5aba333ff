"""Re-ttention (Chen et al., arXiv 2505.22918): very sparse attention, put right by what a whole step has shown.

With three blocks in a hundred the weights of what is kept are far too large: their sum is taken for all there is. How
much it really is (rho) changes smoothly from step to step, and so does the output of the rest. Both are taken at a
whole step and used at the next few.

Departures: rho never exceeds 1 (the published code lets it); the rest is kept in front of the output projection, where
the sparse kernel has it; a whole step costs one dense attention, where the code computes dense and sparse; the mask is
one of :mod:`.static_patterns`, by blocks.
"""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target
from dit_accel.passes.attention.choosing import Choosing
from dit_accel.passes.attention.layers import DEFAULT_STEPS, no_attention
from dit_accel.passes.attention.rettention_layer import STORAGES, ReshapedAttention, Storage
from dit_accel.passes.attention.routing import SCORES, routable
from dit_accel.passes.attention.rules import DenseRules
from dit_accel.passes.attention.static_mask import check_static
from dit_accel.passes.attention.static_patterns import Pattern
from dit_accel.passes.base import Pass, register_pass
from dit_accel.runtime.call import Call, Effect, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree

NAME = "rettention"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RettentionConfig(DenseRules):
    """Compute few blocks of attention, and add what the others gave at the last step that computed all.

    Args:
        density: Share of the key blocks that each block of queries computes, at least one; text not counted.
        pattern: Of the static mask: ``"window"`` (the paper's), ``"tiles"`` or ``"radial"``.
        block: Tokens in a block.
        refresh: Every so many steps everything is computed.
        rise: lambda, by how much the share of the computed blocks is taken to rise with every step.
        storage: What the output of the others is kept in: ``"as computed"``, ``"bfloat16"``, ``"float16"`` or
            ``"float8"``. It is as large as the output of each layer, for each guidance branch.
        layers: Shell-style patterns of the attention sites that it acts on; the others stay dense, and keep nothing.
        dense_steps_frac: Share of the steps that are dense; 0.2 to 0.3 in the paper.

    Raises:
        ConfigError: A value out of range.
    """

    type_name: ClassVar[str] = NAME

    density: float = 0.0625
    pattern: Pattern = "window"
    block: int = 64
    refresh: int = 5
    rise: float = 0.04
    storage: Storage = "as computed"
    layers: tuple[str, ...] = ("*",)
    dense_steps_frac: float = 0.25

    def __post_init__(self) -> None:
        self.check_rules()
        check_static(NAME, self.pattern, self.density, self.block)
        object.__setattr__(self, "layers", (self.layers,) if isinstance(self.layers, str) else tuple(self.layers))
        if not isinstance(self.refresh, int) or self.refresh < 1:
            raise ConfigError(f"'{NAME}': refresh must be a whole number of at least 1, got {self.refresh!r}")
        if not isinstance(self.rise, int | float) or not 0 <= self.rise <= 1:
            raise ConfigError(f"'{NAME}': rise must be a number in [0, 1], got {self.rise!r}")
        if self.storage not in STORAGES:
            raise ConfigError(f"'{NAME}': storage must be one of {', '.join(STORAGES)}, got {self.storage!r}")

    def acts_on(self, site: str) -> bool:
        """Whether a site is one of :attr:`layers`."""
        return any(fnmatchcase(site, pattern) for pattern in self.layers)

    def attention(self) -> ReshapedAttention:
        """One layer's."""
        return ReshapedAttention(
            pattern=self.pattern, density=self.density, block=self.block, rise=self.rise, storage=self.storage
        )


class Rettention(Choosing):
    """Stands around every call of one denoiser: says which branch, which step, and whether it is a whole one."""

    config: RettentionConfig

    def __init__(self, runtime: DenoiserRuntime, config: RettentionConfig) -> None:
        super().__init__(runtime, config, needs_layout=True)
        self.layers: list[ReshapedAttention] = []
        for number in self.acting():
            if config.acts_on(self.sparse.layers[number].site_id):
                self.layers.append(config.attention())
                self.attends[number] = self.layers[-1]
        self.most_bytes = 0

    def begin(self, run: Run) -> None:
        """A run begins."""
        super().begin(run)
        self.most_bytes = 0
        for each in self.layers:
            each.kept = {}

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Whole, or sparse."""
        for each in self.layers:
            each.branch, each.step, each.skipped = call.branch, call.step, False
            if call.begins:
                each.kept.pop(call.branch, None)
            kept = each.kept.get(call.branch)
            each.looks = kept is None or call.step - kept.step >= self.config.refresh
            if kept is not None and each.looks:
                del each.kept[call.branch]  # before the new one is made, so that there are never two
        output = super().__call__(call, inner)
        self.most_bytes = max(self.most_bytes, sum(each.num_bytes for each in self.layers))
        return output

    def planned(self, num_steps: int) -> float:
        """Share of all self-attention scores of a run that is not computed, if no step is left out."""
        dense = self.config.dense_steps(num_steps)
        sparse = sum((step - dense) % self.config.refresh != 0 for step in range(dense, num_steps))
        density = self.config.density
        if self.layers and self.layers[0].static is not None:
            density = self.layers[0].static.density
        return len(self.layers) / max(1, len(self.attends)) * (1 - density) * sparse / num_steps


def apply_rettention(runtime: DenoiserRuntime, config: RettentionConfig) -> None:
    """Give self-attention of one denoiser a route that remembers."""
    passing = Rettention(runtime, config)
    runtime.each_run(passing.begin, by=NAME)
    runtime.around(passing, order=100, by=NAME)
    runtime.stay_eager("keeps what its attention leaves out from step to step", by=NAME)


def effect_of_rettention(runtime: DenoiserRuntime, config: RettentionConfig) -> Effect:
    """Share of the self-attention scores that were not computed, and what was kept for that."""
    passing = runtime.around_of(NAME)
    assert isinstance(passing, Rettention)
    planned = passing.planned(runtime.stats.num_steps if runtime.stats.calls else DEFAULT_STEPS)
    return replace(passing.sparse.effect(planned), kept_bytes=passing.most_bytes)


def _obstacles(target: Target, config: RettentionConfig) -> list[str]:
    found = [site.info.id for site, _ in routable(target)]
    if found and not any(config.acts_on(site) for site in found):
        return [f"none of its attention sites is one of {', '.join(config.layers)}; it has {', '.join(found[:3])}"]
    return no_attention(target)


register_pass(
    Pass(
        config=RettentionConfig,
        summary="computes few blocks of attention, and adds what the others gave at the last whole step",
        phase="modules",
        claims=frozenset((SCORES,)),
        obstacles=_obstacles,
        example=RettentionConfig,
        apply=apply_rettention,
        effect=effect_of_rettention,
    )
)
