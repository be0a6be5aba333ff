"""A pipeline whose denoisers are quantised as if they had been loaded so: for calibrations of what comes on top.

A trajectory that is fitted to the plain model multiplies the rounding errors of the outputs that it answers from by
the norm of its weights; extrapolating from neighbouring steps makes that several times what they are. Fitted beneath
this, the outputs it is fitted on are those that it will be given, errors included, and least squares shrinks the
weights that would multiply them: CacheQuant's point (arXiv 2503.01323) that both have to be found together.

    reference = record(pipe, draw)                       # the plain run, which is what is wanted
    with quantised_beneath(pipe, config):
        fitted = fit(pipe, draw, reference, computed, 0, 8)
    plan = AccelerationPlan(passes=(config, fitted.config))
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dit_accel.api import is_accelerated
from dit_accel.errors import ConfigError
from dit_accel.families.targets import find_targets
from dit_accel.passes.quantize.config import QuantizeConfig
from dit_accel.passes.quantize.replaced import Quantised
from dit_accel.runtime.ledger import PatchLedger


@contextmanager
def quantised_beneath(pipe: Any, config: QuantizeConfig) -> Iterator[None]:
    """While inside, plain means quantised; afterwards the very same layers are back.

    Args:
        pipe: A pipeline that is not accelerated.
        config: Without exact steps and fixed scales by part of a run, which take a plan that follows the steps.

    Raises:
        ConfigError: It is accelerated, or the plan has to follow the steps.
    """
    if is_accelerated(pipe):
        raise ConfigError("the pipeline is accelerated already; quantise a plain one beneath")
    ledger = PatchLedger()
    try:
        for target in find_targets(pipe):
            if Quantised(target, config, ledger, pipe).follows_steps:
                raise ConfigError("exact steps and scales by part of a run cannot lie beneath another calibration")
        yield
    finally:
        ledger.undo()
