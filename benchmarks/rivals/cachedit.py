"""cache-dit (vipshop/cache-dit), as its users call it, with the adapters it ships.

``pip install --no-deps "cache-dit>=1.5,<1.6"``: it asks for nothing that diffusers does not need already.
"""

import logging
from importlib.util import find_spec
from typing import Any

from dit_accel.families.pipeline import find_denoisers
from rivals.base import Rival, Setting, Task

POLICIES = ("slow", "medium", "fast", "ultra")


class CacheDit(Rival):
    """DBCache: the first blocks' residual decides; with Taylor extrapolation; with masks of steps."""

    name = "cache-dit"
    method = "vipshop/cache-dit 1.5"
    made_by = "cache-dit"
    advice = "enable_cache(pipe) and nothing else: F8B0, 8 steps of warm-up, threshold 0.08"

    def supports(self, pipe: Any) -> str | None:
        if not installed():
            return "cache-dit is not installed"
        quiet()
        from cache_dit import BlockAdapterRegister

        if not BlockAdapterRegister.is_supported(pipe):
            return (
                f"cache-dit has no adapter for {type(pipe).__name__}: its blocks are no plain stack (it caches DiTs)"
            )
        return None

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        blocks = _num_blocks(pipe)
        steps = task.num_inference_steps
        chosen = [
            Setting(
                name="cache-dit default",
                rival=self.name,
                advised=True,
                note=f"it always computes 8 of this model's {blocks} blocks" if blocks <= 16 else "",
            )
        ]
        front = sorted({1, max(1, blocks // 4)})
        for first in front:
            for threshold in (0.04, 0.08, 0.12, 0.24, 0.4):
                params = {"Fn_compute_blocks": first, "max_warmup_steps": 4, "residual_diff_threshold": threshold}
                name = f"cache-dit F{first}B0 W4 {threshold}"
                chosen.append(Setting(name=name, rival=self.name, params=params))
        for threshold in (0.08, 0.24):
            params = {"Fn_compute_blocks": 1, "max_warmup_steps": 4, "residual_diff_threshold": threshold}
            taylor = {**params, "taylorseer_order": 1}
            chosen.append(Setting(name=f"cache-dit F1B0 W4 {threshold} TaylorSeer", rival=self.name, params=taylor))
        for policy in POLICIES if steps >= 8 else ():
            params = {"Fn_compute_blocks": 1, "mask_policy": policy, "steps_computation_policy": "static"}
            chosen.append(Setting(name=f"cache-dit mask {policy}", rival=self.name, params=params))
            taylor = {**params, "taylorseer_order": 1}
            chosen.append(Setting(name=f"cache-dit mask {policy} TaylorSeer", rival=self.name, params=taylor))
        return tuple(chosen)

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        quiet()
        import cache_dit

        params = dict(setting.params)
        order = params.pop("taylorseer_order", None)
        policy = params.pop("mask_policy", None)
        if policy is not None:
            params["steps_computation_mask"] = cache_dit.steps_mask(
                total_steps=task.num_inference_steps, mask_policy=policy
            )
        cache_dit.enable_cache(
            pipe,
            cache_config=cache_dit.DBCacheConfig(**params) if params else None,
            calibrator_config=None if order is None else cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order),
        )

    def detach(self, pipe: Any) -> None:
        import cache_dit

        cache_dit.disable_cache(pipe)


def installed() -> bool:
    """Whether cache-dit can be imported."""
    return find_spec("cache_dit") is not None


def quiet() -> None:
    """Its log goes through many loggers at information level; errors stay."""
    import cache_dit  # noqa: F401

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("cache_dit", "CACHE_DIT")):
            logging.getLogger(name).setLevel(logging.ERROR)


def _num_blocks(pipe: Any) -> int:
    from dit_accel.families import resolve_family

    denoiser = find_denoisers(pipe)[0][1]
    return resolve_family(denoiser).bind(denoiser).graph.num_blocks
