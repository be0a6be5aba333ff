"""Acceleration passes: one technique, one file. Importing this package registers them."""

from dit_accel.passes.attention.paro import PAROAttentionConfig
from dit_accel.passes.attention.sparse_d import SparseDConfig
from dit_accel.passes.compile import CompileConfig
from dit_accel.passes.encoder_propagation.apply import EncoderPropagationConfig
from dit_accel.passes.first_block_cache import FirstBlockCacheConfig
from dit_accel.passes.patch_parallel.apply import PatchParallelConfig
from dit_accel.passes.quantize.apply import QuantizeConfig
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.passes.teacache import TeaCacheConfig
from dit_accel.passes.trajectory.apply import TrajectoryConfig

__all__ = [
    "CompileConfig",
    "EncoderPropagationConfig",
    "FirstBlockCacheConfig",
    "PAROAttentionConfig",
    "PatchParallelConfig",
    "QuantizeConfig",
    "SparseDConfig",
    "StaticCacheConfig",
    "TeaCacheConfig",
    "TrajectoryConfig",
]
