"""diffusers' own caches of whole transformer blocks and of modules: FirstBlockCache, MagCache, TaylorSeer.

Their code runs as it is; what a model lacks to be given to it is in ``lent``.
"""

import ast
import contextlib
import io
import re
from abc import abstractmethod
from typing import Any

import torch
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS
from diffusers.hooks._helpers import TransformerBlockRegistry
from torch import nn

from dit_accel.families.pipeline import find_denoisers
from dit_accel.families.targets import find_targets
from rivals import lent
from rivals.base import Rival, Setting, Task
from rivals.snapshot import Snapshot
from rivals.trajectory import only_denoiser
from rivals.work import LEAF_KINDS


class DiffusersCache(Rival):
    """A technique that ``enable_cache`` switches on."""

    made_by = "diffusers"

    @abstractmethod
    def config(self, pipe: Any, setting: Setting, task: Task) -> Any:
        """What ``enable_cache`` takes."""

    def supports(self, pipe: Any) -> str | None:
        if len(find_denoisers(pipe)) > 1:
            return "the cache is of one denoiser, and this pipeline has two"
        return None

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        denoiser = lent.make_cacheable(pipe)
        denoiser.enable_cache(self.config(pipe, setting, task))
        lent.provide_context(pipe)

    def detach(self, pipe: Any) -> None:
        denoiser = only_denoiser(pipe)
        if denoiser.is_cache_enabled:
            denoiser.disable_cache()


class FirstBlockCache(DiffusersCache):
    """The first block's residual decides whether the others are skipped."""

    name = "FirstBlockCache"
    method = "ParaAttention (Cheng), after TeaCache, arXiv 2411.19108"
    advice = "threshold 0.05, the default of diffusers; 0.2 in its example"

    def supports(self, pipe: Any) -> str | None:
        return super().supports(pipe) or needs_known_blocks(pipe)

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        return tuple(
            Setting(
                name=f"FirstBlockCache {threshold}",
                rival=self.name,
                params={"threshold": threshold},
                advised=threshold == 0.05,
            )
            for threshold in (0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
        )

    def config(self, pipe: Any, setting: Setting, task: Task) -> FirstBlockCacheConfig:
        return FirstBlockCacheConfig(**setting.params)


class MagCache(DiffusersCache):
    """Skips steps while the magnitudes of residuals, measured beforehand, say that little changes."""

    name = "MagCache"
    method = "Ma et al., arXiv 2506.09045"
    made_by = "diffusers, calibrated by its own calibration mode"
    advice = "threshold 0.06, at most 3 skips, the first 0.2 of the steps in full: the defaults of diffusers"

    def supports(self, pipe: Any) -> str | None:
        return super().supports(pipe) or needs_known_blocks(pipe)

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        sweep = [(0.03, 3), (0.06, 3), (0.12, 3), (0.24, 5), (0.5, 5), (1.0, 8)]
        return tuple(
            Setting(
                name=f"MagCache {threshold} K={skips}",
                rival=self.name,
                params={"threshold": threshold, "max_skip_steps": skips, "retention_ratio": 0.2},
                advised=threshold == 0.06,
            )
            for threshold, skips in sweep
        )

    def prepare(self, pipe: Any, task: Task) -> None:
        task.learned(self.name, lambda: self._calibrate(pipe, task))

    def config(self, pipe: Any, setting: Setting, task: Task) -> MagCacheConfig:
        ratios = task.memory[self.name]
        return MagCacheConfig(**setting.params, num_inference_steps=len(ratios), mag_ratios=ratios)

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        self.prepare(pipe, task)
        super().attach(pipe, setting, task)

    def _calibrate(self, pipe: Any, task: Task) -> list[float]:
        """The ratios that diffusers prints for users to copy, averaged over runs and guidance branches."""
        snapshot = Snapshot(pipe)
        printed = io.StringIO()
        try:
            denoiser = lent.make_cacheable(pipe)
            denoiser.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=task.num_inference_steps))
            lent.provide_context(pipe)
            with contextlib.redirect_stdout(printed):
                task.calibrate()
        finally:
            snapshot.restore()
        lists = [ast.literal_eval(line) for line in re.findall(r"^\[[\d., einf+-]+\]$", printed.getvalue(), re.M)]
        lists = [each for each in lists if len(each) == task.num_inference_steps]
        if not lists:
            raise RuntimeError("MagCache printed no ratios: the number of denoiser calls is not that of the steps")
        return torch.tensor(lists, dtype=torch.float64).mean(0).tolist()


class TaylorSeer(DiffusersCache):
    """Outputs of modules are extrapolated from their last changes."""

    name = "TaylorSeer"
    method = "Liu et al., arXiv 2503.06923"
    advice = "interval 5, order 1, first 3 steps in full, modules of the default pattern: the defaults of diffusers"

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        patterns = [re.escape(path) for path in _leaf_paths(pipe)]
        common = {"disable_cache_before_step": 3}
        chosen = [
            Setting(
                name="TaylorSeer as documented",
                rival=self.name,
                params={"cache_interval": 5, "max_order": 1, **common},
                advised=True,
                note="its default pattern matches modules named 'attn' only, which PixArt, Wan and UNets do not have",
            )
        ]
        note = "patterns given by us: attention and feed-forward, as in the paper"
        for interval, order in ((2, 1), (3, 1), (4, 1), (5, 1), (3, 0), (3, 2), (5, 2)):
            params = {"cache_interval": interval, "max_order": order, "cache_identifiers": patterns, **common}
            name = f"TaylorSeer N={interval} O={order}"
            chosen.append(Setting(name=name, rival=self.name, params=params, note=note))
        if "proj_out" in dict(only_denoiser(pipe).named_children()):
            for interval in (3, 5):
                params = {"cache_interval": interval, "max_order": 1, "use_lite_mode": True, **common}
                chosen.append(Setting(name=f"TaylorSeer lite N={interval}", rival=self.name, params=params))
        return tuple(chosen)

    def config(self, pipe: Any, setting: Setting, task: Task) -> TaylorSeerCacheConfig:
        kind = next(only_denoiser(pipe).parameters()).dtype
        return TaylorSeerCacheConfig(**setting.params, taylor_factors_dtype=kind)


def needs_known_blocks(pipe: Any) -> str | None:
    """Why diffusers' block caches cannot act: they need one plain stack of blocks of a registered class."""
    denoiser = only_denoiser(pipe)
    blocks = [
        block
        for name, child in denoiser.named_children()
        if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS and isinstance(child, nn.ModuleList)
        for block in child
    ]
    if len(blocks) < 2:
        return "it skips a plain stack of transformer blocks, and this model has none (a UNet has skip connections)"
    try:
        for block in blocks:
            TransformerBlockRegistry.get(type(block))
    except ValueError as error:
        return f"diffusers does not know the blocks: {error}"
    return None


def _leaf_paths(pipe: Any) -> list[str]:
    sites = find_targets(pipe)[0].layout.sites
    return [site.path for site in sites if site.info.kind in LEAF_KINDS]
