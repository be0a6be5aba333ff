"""Model facts as data, one small file per model family."""

from dit_accel.families.base import BoundSite, Family, Layout, SiteSpec, Stack
from dit_accel.families.catalog import find_family, known_families, register_family, resolve_family
from dit_accel.families.check import check_family
from dit_accel.families.sample import Sample
from dit_accel.families.small_call import small_call

__all__ = [
    "BoundSite",
    "Family",
    "Layout",
    "Sample",
    "SiteSpec",
    "Stack",
    "check_family",
    "find_family",
    "known_families",
    "register_family",
    "resolve_family",
    "small_call",
]
