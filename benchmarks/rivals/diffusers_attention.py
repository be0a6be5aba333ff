"""diffusers' caches of attention: Pyramid Attention Broadcast and FasterCache. What a model lacks is in ``lent``."""

import functools
import inspect
from typing import Any

import torch
from diffusers.hooks import FasterCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks.faster_cache import _FASTER_CACHE_BLOCK_HOOK
from diffusers.hooks.pyramid_attention_broadcast import _PYRAMID_ATTENTION_BROADCAST_HOOK

from dit_accel.families import resolve_family
from rivals import lent
from rivals.base import Setting, Task
from rivals.diffusers_blocks import DiffusersCache
from rivals.scheduled import kinds_of
from rivals.trajectory import only_denoiser

RANGE = (100, 800)  # timesteps in which attention may be skipped, in PAB's documentation
TENSOR_FORMATS = {"BCHW": "BCHW", "BCFHW": "BCFHW", "BFCHW": "BFCHW"}
PER_BRANCH = "one state for each guidance branch, given by us: as shipped, one branch gets the other's attention"


class PyramidAttentionBroadcast(DiffusersCache):
    """Attention outputs are used again for a number of steps in the middle of the run."""

    name = "PyramidAttentionBroadcast"
    method = "Zhao et al., arXiv 2408.12588"
    advice = "spatial attention every 2nd step between timesteps 100 and 800 (diffusers' documentation)"

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        chosen = []
        has_cross = "cross_attn" in kinds_of(pipe)
        sweep = ((2, None), (2, 4), (3, 6), (4, 8)) if has_cross else ((2, None), (3, None), (4, None))
        for spatial, cross in sweep:
            params: dict[str, Any] = {"spatial_attention_block_skip_range": spatial}
            if cross is not None:
                params["cross_attention_block_skip_range"] = cross
            name = f"PAB {spatial}" if cross is None else f"PAB {spatial}/{cross}"
            chosen.append(Setting(name=name, rival=self.name, params=params, advised=spatial == 2 and cross is None))
        wide = {"spatial_attention_block_skip_range": 3, "spatial_attention_timestep_skip_range": [-1, 1000]}
        chosen.append(Setting(name="PAB 3 at all timesteps", rival=self.name, params=wide))
        return tuple(chosen) + _per_branch(pipe, chosen)

    def config(self, pipe: Any, setting: Setting, task: Task) -> PyramidAttentionBroadcastConfig:
        params = {key: tuple(value) if isinstance(value, list) else value for key, value in setting.params.items()}
        params.pop("per_branch", None)
        params = {
            "spatial_attention_timestep_skip_range": RANGE,
            "cross_attention_timestep_skip_range": RANGE,
        } | params
        return PyramidAttentionBroadcastConfig(**params, current_timestep_callback=lent.Timestep(pipe))

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        super().attach(pipe, setting, task)
        if setting.params.get("per_branch"):
            lent.separate_branches(pipe, _PYRAMID_ATTENTION_BROADCAST_HOOK)


class FasterCache(DiffusersCache):
    """Attention is extrapolated, and the unconditional branch guessed from the conditional one."""

    name = "FasterCache"
    method = "Lv et al., arXiv 2410.19355"
    advice = (
        "attention every 2nd step below timestep 681, unconditional branch every 5th below 641 (diffusers' defaults)"
    )

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        chosen = []
        batched = resolve_family(only_denoiser(pipe)).guidance == "batched"
        for attention, unconditional in ((2, 5), (2, 2), (3, 5), (4, 8)) if batched else ((2, 5), (3, 5), (4, 5)):
            params = {
                "spatial_attention_block_skip_range": attention,
                "unconditional_batch_skip_range": unconditional,
            }
            chosen.append(
                Setting(
                    name=f"FasterCache {attention}/{unconditional if batched else '-'}",
                    rival=self.name,
                    params=params,
                    advised=(attention, unconditional) == (2, 5),
                    note=self._note(pipe),
                )
            )
        return _per_branch(pipe, chosen) or tuple(chosen)

    def config(self, pipe: Any, setting: Setting, task: Task) -> FasterCacheConfig:
        family = resolve_family(only_denoiser(pipe))
        params = {key: value for key, value in setting.params.items() if key != "per_branch"}
        more: dict[str, Any] = {}
        if family.guidance == "batched":
            names = inspect.signature(type(only_denoiser(pipe)).forward).parameters
            more["_unconditional_conditional_input_kwargs_identifiers"] = [
                name
                for name in names
                if name in ("sample", "hidden_states", "timestep", "attention_mask") or name.startswith("encoder_")
            ]
        return FasterCacheConfig(
            **params,
            **more,
            tensor_format=TENSOR_FORMATS.get(family.latent_layout, "BCHW"),
            is_guidance_distilled=family.guidance != "batched",
            attention_weight_callback=lambda _: 0.5,
            current_timestep_callback=lent.Timestep(pipe),
        )

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        super().attach(pipe, setting, task)
        if setting.params.get("per_branch"):
            lent.separate_branches(pipe, _FASTER_CACHE_BLOCK_HOOK)
        if resolve_family(only_denoiser(pipe)).guidance == "batched":
            _pass_by_name(pipe)

    def _note(self, pipe: Any) -> str:
        guidance = resolve_family(only_denoiser(pipe)).guidance
        if guidance == "two_calls":
            return "the part on guidance is off: it wants both branches in one batch"
        return "" if guidance == "batched" else "the part on guidance is off: this model has no second branch"


def _per_branch(pipe: Any, chosen: list[Setting]) -> tuple[Setting, ...]:
    if not lent.two_calls(pipe):
        return ()
    return tuple(
        Setting(
            name=f"{each.name}, state per branch",
            rival=each.rival,
            params={**each.params, "per_branch": True},
            advised=each.advised,
            note="; ".join(part for part in (each.note, PER_BRANCH) if part),
        )
        for each in chosen
    )


def _pass_by_name(pipe: Any) -> None:
    """FasterCache halves arguments that it knows by name; the stock UNet pipeline passes some by position, and one
    timestep for the whole batch."""
    denoiser = only_denoiser(pipe)
    names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
    forward = denoiser.forward

    @functools.wraps(forward)
    def by_name(*args: Any, **kwargs: Any) -> Any:
        named = dict(zip(names, args, strict=False)) | kwargs
        timestep = named.get("timestep")
        if isinstance(timestep, torch.Tensor) and timestep.dim() == 0:
            named["timestep"] = timestep.expand(len(named[names[0]]))
        named = {key: value for key, value in named.items() if value is not None}
        return forward(**named)

    denoiser.forward = by_name
