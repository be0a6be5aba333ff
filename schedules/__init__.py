"""What is computed when: schedules, their generators and their lowering. Knows nothing of torch modules."""

from dit_accel.schedules import unet_generators as _unet_generators  # registers its generators
from dit_accel.schedules.generators import GENERATORS, GeneratorSpec, invariants
from dit_accel.schedules.graph import SiteGraph, SiteInfo
from dit_accel.schedules.lowering import Program, Row, lower
from dit_accel.schedules.resample import resample
from dit_accel.schedules.schedule import Schedule, ScheduleError

__all__ = [
    "GENERATORS",
    "GeneratorSpec",
    "Program",
    "Row",
    "Schedule",
    "ScheduleError",
    "SiteGraph",
    "SiteInfo",
    "invariants",
    "lower",
    "resample",
]
del _unet_generators
