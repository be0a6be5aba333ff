"""Published techniques by name, with their authors' settings: to reproduce them, and to compare with them.

Techniques that are found on recorded runs of a model are no presets; one call of
:func:`dit_accel.calibration.techniques.technique_plan` makes a plan of each.
"""

from dataclasses import dataclass

from dit_accel.passes.encoder_propagation.apply import EncoderPropagationConfig
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.plan.config import PassConfig
from dit_accel.schedules import GeneratorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TechniquePreset:
    """A technique as its authors advise to use it.

    Attributes:
        paper: Authors and arXiv number.
        summary: One line for people.
        passes: The passes of its plan.
    """

    paper: str
    summary: str
    passes: tuple[PassConfig, ...]


def _cached(spec: GeneratorSpec) -> tuple[PassConfig, ...]:
    # Without the text projections that our own presets compute once: no paper's schedule has them.
    return (StaticCacheConfig(schedule=spec, invariants=False),)


RECORDED = ("smoothcache", "cachequant", "meancache_path", "lemica")
"""Techniques that need recorded runs, by their names in :mod:`dit_accel.calibration.techniques`."""

TECHNIQUES = {
    "deepcache": TechniquePreset(
        paper="Ma et al., arXiv 2312.00858",
        summary="two steps in three run only the outermost path of a UNet",
        passes=_cached(GeneratorSpec("deepcache", n=3, branch=0)),
    ),
    "faster_diffusion": TechniquePreset(
        paper="Li et al., arXiv 2312.09608",
        summary="the encoder runs at key steps, the decoders between in batches; prior noise is added late",
        passes=(EncoderPropagationConfig(prior_noise=0.003),),
    ),
    "a_sdm": TechniquePreset(
        paper="Zhu et al., arXiv 2406.00210",
        summary="every second step, all but the outermost blocks of a UNet inherit what they gave at the last",
        passes=_cached(GeneratorSpec("inheritance", level="block", mode="uniform", n=2)),
    ),
    "fora": TechniquePreset(
        paper="Selvaraju et al., arXiv 2407.01425",
        summary="two steps in three reuse attention and feed-forward outputs",
        passes=_cached(GeneratorSpec("every_n", n=3)),
    ),
}
