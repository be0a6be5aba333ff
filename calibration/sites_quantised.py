"""The search over calls and sites on a quantised model: what it takes from the plan, and what few bits cost."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from dit_accel.api import accelerated
from dit_accel.calibration.site_times import Clock, now
from dit_accel.calibration.sites_genome import Genome
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.config import QuantizeConfig
from dit_accel.plan.plan import AccelerationPlan

ROUNDS = 2


def exact_ends(seeds: Mapping[str, Genome]) -> dict[str, Genome]:
    """Those of some seeds that reuse no site, with the first and the last evaluation in full."""
    return {f"{name}, ends exact": seed.having(exact=(1, 1)) for name, seed in seeds.items() if not seed.reused}


def quantised_by(plan: AccelerationPlan) -> QuantizeConfig:
    """The pass by which a plan quantises.

    Raises:
        ConfigError: It has none, or exact evaluations already, which are searched.
    """
    for config in plan.passes:
        if isinstance(config, QuantizeConfig):
            if config.has_exact_steps:
                raise ConfigError(
                    f"plan '{plan.name}' keeps {config.exact_first} and {config.exact_last} steps exact; give one "
                    "without, for they are searched"
                )
            return config
    raise ConfigError(f"plan '{plan.name}' does not quantise: `dit-accel quantize` finds one that does")


def quantised_frac(
    pipe: Any, run: Callable[[], object], config: QuantizeConfig, outside_s: float, clock: Clock = now
) -> float:
    """Time of the denoiser's calls in few bits by their time in full, the least of a few interleaved runs."""
    taken: dict[bool, float] = {False: math.inf, True: math.inf}
    for _ in range(ROUNDS):
        for few in (False, True):
            with accelerated(pipe, config) if few else nullcontext():
                began = clock()
                run()
                taken[few] = min(taken[few], clock() - began)
    return round(max(taken[True] - outside_s, 1e-9) / max(taken[False] - outside_s, 1e-9), 4)
