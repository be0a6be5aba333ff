"""Model facts as data, one small file per model family."""

from dit_accel.families.base import BoundSite, Family, Layout, SiteSpec, Stack
from dit_accel.families.catalog import find_family, known_families, register_family, resolve_family
from dit_accel.families.sample import Sample

__all__ = [
    "BoundSite",
    "Family",
    "Layout",
    "Sample",
    "SiteSpec",
    "Stack",
    "find_family",
    "known_families",
    "register_family",
    "resolve_family",
]
