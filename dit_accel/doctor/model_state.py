"""What was already done to a denoiser: compile, offload, adapters, quantisation, caches."""

from typing import Any

import torch
from torch import nn

# Prefixes of the names under which diffusers registers its own caching hooks.
_DIFFUSERS_CACHES = {
    "pyramid_attention_broadcast": "Pyramid Attention Broadcast",
    "faster_cache": "FasterCache",
    "fbc_": "First Block Cache",
    "mag_cache": "MagCache",
    "taylorseer": "TaylorSeer",
    "text_kv_cache": "text key/value cache",
}


def model_state(pipe: Any, name: str, denoiser: nn.Module) -> tuple[str, ...]:
    """What was found on a denoiser, one short phrase each; empty for a model as it was loaded.

    Args:
        pipe: The pipeline, or the denoiser itself.
        name: Attribute of the pipeline that holds the denoiser.
        denoiser: The module without wrappers.
    """
    modules = list(denoiser.modules())
    outer = pipe if isinstance(pipe, nn.Module) else getattr(pipe, name, denoiser)
    hooks = _diffusers_hooks(modules)
    found = (
        _compile(outer, modules),
        _offload(modules, hooks),
        "layerwise casting" if any("layerwise_casting" in hook for hook in hooks) else None,
        *_caches(hooks),
        _adapters(modules),
        _quantisation(denoiser),
        "fused QKV projections" if any(getattr(m, "fused_projections", False) for m in modules) else None,
        "training mode" if denoiser.training else None,
        _acceleration(pipe),
    )
    return tuple(phrase for phrase in found if phrase is not None)


def _compile(outer: nn.Module, modules: list[nn.Module]) -> str | None:
    if isinstance(outer, torch._dynamo.OptimizedModule) or outer._compiled_call_impl is not None:
        return "torch.compile of the whole denoiser"
    compiled = sum(1 for m in modules if m._compiled_call_impl is not None)
    return f"torch.compile of {compiled} of its modules" if compiled else None


def _diffusers_hooks(modules: list[nn.Module]) -> set[str]:
    registries = (getattr(module, "_diffusers_hook", None) for module in modules)
    return {name for registry in registries if registry is not None for name in registry.hooks}


def _offload(modules: list[nn.Module], hooks: set[str]) -> str | None:
    if any("group_offloading" in hook for hook in hooks):
        return "group offload"
    accelerate_hooks = [hook for m in modules if (hook := getattr(m, "_hf_hook", None)) is not None]
    if any(getattr(hook, "offload", False) for hook in accelerate_hooks):
        return "sequential CPU offload"
    return "model CPU offload" if accelerate_hooks else None


def _caches(hooks: set[str]) -> list[str]:
    found = {title for hook in hooks for word, title in _DIFFUSERS_CACHES.items() if word in hook}
    return [f"diffusers cache: {title}" for title in sorted(found)]


def _adapters(modules: list[nn.Module]) -> str | None:
    tuned = [m for m in modules if hasattr(m, "base_layer") and hasattr(m, "active_adapters")]
    if not tuned:
        return None
    active: list[Any] = [m.active_adapters for m in tuned]
    names = sorted({str(adapter) for adapters in active for adapter in adapters})
    fused = all(getattr(m, "merged", False) for m in tuned)
    return f"adapters {', '.join(names)} on {len(tuned)} layers{', fused' if fused else ''}"


def _quantisation(denoiser: nn.Module) -> str | None:
    quantizer = getattr(denoiser, "hf_quantizer", None)
    if quantizer is not None:
        return f"quantised by {type(quantizer).__name__.removesuffix('Quantizer')}"
    kinds = {type(p.data).__name__ for p in denoiser.parameters()} - {"Tensor"}
    return f"quantised weights: {', '.join(sorted(kinds))}" if kinds else None


def _acceleration(pipe: Any) -> str | None:
    from dit_accel.session.session import session_of

    session = session_of(pipe)
    return None if session is None else f"accelerated by plan '{session.plan.name}'"
