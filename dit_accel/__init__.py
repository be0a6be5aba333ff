"""Make any diffusers pipeline several times faster in one call, prove what it costs, and undo it exactly."""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING

from dit_accel.version import __version__ as __version__

_EXPORTS = {
    "AccelerationPlan": "dit_accel.plan.plan",
    "CompileConfig": "dit_accel.passes.compile",
    "DistilledConfig": "dit_accel.passes.distilled",
    "EncoderPropagationConfig": "dit_accel.passes.encoder_propagation.apply",
    "FirstBlockCacheConfig": "dit_accel.passes.first_block_cache",
    "GeneratorSpec": "dit_accel.schedules",
    "LinearAttentionConfig": "dit_accel.passes.linear_attention",
    "PatchParallelConfig": "dit_accel.passes.patch_parallel.apply",
    "QuantizeConfig": "dit_accel.passes.quantize.apply",
    "RettentionConfig": "dit_accel.passes.attention.rettention",
    "SLAConfig": "dit_accel.passes.attention.sla",
    "Schedule": "dit_accel.schedules",
    "SparseDConfig": "dit_accel.passes.attention.sparse_d",
    "StaticCacheConfig": "dit_accel.passes.static_cache",
    "StaticMaskConfig": "dit_accel.passes.attention.static_mask",
    "TeaCacheConfig": "dit_accel.passes.teacache",
    "TrajectoryConfig": "dit_accel.passes.trajectory.apply",
    "UNetSwitchingConfig": "dit_accel.passes.unet_switching",
    "VMoBAConfig": "dit_accel.passes.attention.vmoba",
    "accelerate_pipeline": "dit_accel.api",
    "accelerated": "dit_accel.api",
    "certify": "dit_accel.evaluation.certify.certify",
    "is_accelerated": "dit_accel.api",
    "load_embedded": "dit_accel.embedded",
    "remove_acceleration": "dit_accel.api",
    "summary": "dit_accel.api",
    "to_scheduler": "dit_accel.api",
    "trainable_sla": "dit_accel.passes.attention.sla",
}
__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:
    from dit_accel.api import accelerate_pipeline as accelerate_pipeline
    from dit_accel.api import accelerated as accelerated
    from dit_accel.api import is_accelerated as is_accelerated
    from dit_accel.api import remove_acceleration as remove_acceleration
    from dit_accel.api import summary as summary
    from dit_accel.api import to_scheduler as to_scheduler
    from dit_accel.embedded import load_embedded as load_embedded
    from dit_accel.evaluation.certify.certify import certify as certify
    from dit_accel.passes.attention.rettention import RettentionConfig as RettentionConfig
    from dit_accel.passes.attention.sla import SLAConfig as SLAConfig
    from dit_accel.passes.attention.sla import trainable_sla as trainable_sla
    from dit_accel.passes.attention.sparse_d import SparseDConfig as SparseDConfig
    from dit_accel.passes.attention.static_mask import StaticMaskConfig as StaticMaskConfig
    from dit_accel.passes.attention.vmoba import VMoBAConfig as VMoBAConfig
    from dit_accel.passes.compile import CompileConfig as CompileConfig
    from dit_accel.passes.distilled import DistilledConfig as DistilledConfig
    from dit_accel.passes.encoder_propagation.apply import EncoderPropagationConfig as EncoderPropagationConfig
    from dit_accel.passes.first_block_cache import FirstBlockCacheConfig as FirstBlockCacheConfig
    from dit_accel.passes.linear_attention import LinearAttentionConfig as LinearAttentionConfig
    from dit_accel.passes.patch_parallel.apply import PatchParallelConfig as PatchParallelConfig
    from dit_accel.passes.quantize.apply import QuantizeConfig as QuantizeConfig
    from dit_accel.passes.static_cache import StaticCacheConfig as StaticCacheConfig
    from dit_accel.passes.teacache import TeaCacheConfig as TeaCacheConfig
    from dit_accel.passes.trajectory.apply import TrajectoryConfig as TrajectoryConfig
    from dit_accel.passes.unet_switching import UNetSwitchingConfig as UNetSwitchingConfig
    from dit_accel.plan.plan import AccelerationPlan as AccelerationPlan
    from dit_accel.schedules import GeneratorSpec as GeneratorSpec
    from dit_accel.schedules import Schedule as Schedule


def __getattr__(name: str) -> object:
    # Public names are imported on first use, so that `import dit_accel` is quick and loads no model code.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dit_accel' has no attribute '{name}'")
    return getattr(_import_module(_EXPORTS[name]), name)


# A wheel carries kernels/, schedules/, calibration/ and app/ inside this package; in a source
# checkout they are its siblings, so look beside it as well.
_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and not (_root / "dit_accel" / "kernels").exists():
    __path__.append(str(_root))
