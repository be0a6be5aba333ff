"""Acceleration passes: one technique, one file. Importing this package registers them."""

from dit_accel.passes.compile import CompileConfig
from dit_accel.passes.static_cache import StaticCacheConfig

__all__ = ["CompileConfig", "StaticCacheConfig"]
