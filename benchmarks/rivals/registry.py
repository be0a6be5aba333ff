"""All rivals, by name."""

from collections.abc import Sequence

from dit_accel.errors import ConfigError, did_you_mean
from rivals.base import Rival
from rivals.cachedit import CacheDit
from rivals.diffusers_attention import FasterCache, PyramidAttentionBroadcast
from rivals.diffusers_blocks import FirstBlockCache, MagCache, TaylorSeer
from rivals.l2p import L2P
from rivals.meancache import MeanCache
from rivals.optimal_steps import OptimalSteps
from rivals.scheduled import DeepCache, Fora, Ours, TGateKeepingGuidance
from rivals.smoothcache import SmoothCache
from rivals.teacache import TeaCache
from rivals.tgate import TGate

KINDS: tuple[type[Rival], ...] = (
    Fora,
    TGate,
    TGateKeepingGuidance,
    SmoothCache,
    TeaCache,
    DeepCache,
    FirstBlockCache,
    MagCache,
    TaylorSeer,
    PyramidAttentionBroadcast,
    FasterCache,
    CacheDit,
    L2P,
    MeanCache,
    OptimalSteps,
    Ours,
)


def all_rivals() -> tuple[Rival, ...]:
    """One of each."""
    return tuple(kind() for kind in KINDS)


def select_rivals(names: Sequence[str]) -> tuple[Rival, ...]:
    """Those called so, in capital or small letters; all when none is named.

    Raises:
        ConfigError: There is no such rival.
    """
    rivals = all_rivals()
    by_name = {rival.name.lower(): rival for rival in rivals}
    for name in names:
        if name.lower() not in by_name:
            known = ", ".join(rival.name for rival in rivals)
            raise ConfigError(f"no rival '{name}'.{did_you_mean(name, [r.name for r in rivals])} There are: {known}.")
    return tuple(by_name[name.lower()] for name in names) if names else rivals
