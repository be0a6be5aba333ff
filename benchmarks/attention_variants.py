"""The ways to leave out attention that ``attention_quality.py`` compares, each with and without an order of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dit_accel import (
    GeneratorSpec,
    RettentionConfig,
    SLAConfig,
    SparseDConfig,
    StaticCacheConfig,
    StaticMaskConfig,
    VMoBAConfig,
)
from dit_accel.calibration.attention import choose_paro
from dit_accel.calibration.attention_record import AttentionRecord
from dit_accel.plan.config import PassConfig

DENSE_STEPS_FRAC = 0.2
"""The same for all, so that equal densities are equal savings; what a technique computes whole besides is counted."""
CACHE = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way.

    Attributes:
        technique: Its name.
        order: Of the tokens.
        make: From a density to the pass.
        cached: Whether every second step also reuses the modules' outputs.
    """

    technique: str
    order: str
    make: Callable[[float], PassConfig]
    cached: bool = False

    @property
    def name(self) -> str:
        """In results."""
        return f"{self.technique}, {self.order}" + (", every second step cached" if self.cached else "")

    def passes(self, density: float) -> list[PassConfig]:
        """What to apply."""
        return [*([CACHE] if self.cached else []), self.make(density)]


def variants(record: AttentionRecord, block: int) -> list[Variant]:
    """All of them, those with an order first.

    Args:
        record: What orders and masks of PAROAttention are chosen from; prompts apart from those that are measured.
        block: Tokens in a block.
    """
    shared = {"block": block, "dense_steps_frac": DENSE_STEPS_FRAC}

    def paro(orders: Sequence[int]) -> Callable[[float], PassConfig]:
        return lambda density: choose_paro(record, density=density, orders=orders, dense_steps_frac=DENSE_STEPS_FRAC)

    def vmoba(cycle: tuple[str, ...]) -> Callable[[float], PassConfig]:
        return lambda density: VMoBAConfig(density=density, cycle=cycle, dense_steps_frac=DENSE_STEPS_FRAC)

    def of(kind: Callable[..., PassConfig], **more: object) -> Callable[[float], PassConfig]:
        return lambda density: kind(density=density, **shared, **more)

    found = [
        Variant(technique="PAROAttention", order="an order for each head", make=paro(range(6))),
        Variant(technique="PAROAttention", order="raster", make=paro((0,))),
        Variant(technique="SparseD", order="tiles", make=of(SparseDConfig, order="tiles")),
        Variant(technique="SparseD", order="raster", make=of(SparseDConfig)),
        Variant(technique="SLA, untrained", order="tiles", make=of(SLAConfig, order="tiles")),
        Variant(technique="SLA, untrained", order="raster", make=of(SLAConfig)),
        Variant(
            technique="VMoBA", order="three kinds of boxes", make=vmoba(("temporal", "spatial", "spatiotemporal"))
        ),
        Variant(technique="VMoBA", order="raster", make=vmoba(("temporal",))),
        Variant(technique="Re-ttention", order="tiles", make=of(RettentionConfig, pattern="tiles")),
        Variant(technique="Re-ttention", order="raster", make=of(RettentionConfig, pattern="window")),
        Variant(technique="static mask", order="tiles", make=of(StaticMaskConfig, pattern="tiles")),
        Variant(technique="static mask", order="raster", make=of(StaticMaskConfig, pattern="window")),
        Variant(technique="static mask, radial", order="raster", make=of(StaticMaskConfig, pattern="radial")),
    ]
    ordered = [each for each in found if each.order != "raster"]
    cached = [Variant(technique=e.technique, order=e.order, make=e.make, cached=True) for e in ordered]
    return [*found, *cached]
