"""Published techniques that are found on recorded runs, each as a plan in one call.

    plan = technique_plan(pipe, "smoothcache", lambda: pipe("a red apple", generator=seeded()).images, share=0.5)
    accelerate_pipeline(pipe, plan)

All of them get the same budget, so that they can be compared at equal work: the share of steps that are computed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dit_accel.calibration.corrections import fit_corrections
from dit_accel.calibration.curves import Curves, record_curves
from dit_accel.calibration.gaps import record_gaps
from dit_accel.calibration.solved import lemica_schedule, smoothcache_schedule
from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target, find_targets
from dit_accel.passes.encoder_propagation.apply import EncoderPropagationConfig
from dit_accel.passes.encoder_propagation.encoder import encoder_sites
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.plan.config import PassConfig
from dit_accel.plan.fingerprint import fingerprint
from dit_accel.plan.plan import NOT_CERTIFIED, AccelerationPlan
from dit_accel.registry import Registry
from dit_accel.schedules import GeneratorSpec, Schedule
from dit_accel.schedules.generators import LEAF_KINDS
from dit_accel.schedules.solvers import bits, ordered_groups, shortest_path, summed_gaps

GAMMA = 4.0  # MeanCache's best, arXiv 2601.19961
LONGEST_GAP = 4  # of LeMiCa, which runs the pipeline once for every gap
NOTE = f"found on recorded runs by the method of {{paper}}, {NOT_CERTIFIED}"

Find = Callable[[Any, Target, Callable[[], Any], float], PassConfig]
TECHNIQUES: Registry[tuple[str, Find]] = Registry("technique")


def technique_plan(pipe: Any, name: str, run: Callable[[], Any], *, share: float = 0.5) -> AccelerationPlan:
    """A plan by a published method, for the steps, size and guidance that ``run`` draws with.

    Args:
        pipe: A pipeline with one denoiser. What is applied to it is taken off meanwhile.
        name: ``smoothcache``, ``cachequant``, ``meancache_path``, ``lemica`` or ``faster_diffusion``.
        run: Draws with the pipeline and returns what it drew, the same each time; a few prompts that are not those to
            be measured with. LeMiCa calls it about three times a step, CacheQuant twice, the others once.
        share: Of the steps (SmoothCache: of the module calls; Faster Diffusion: of the encoder's runs), in (0, 1).

    Raises:
        ConfigError: There is no such technique, or ``share`` is no share.
        ScheduleError: The method has no solution that computes so little.
    """
    paper, find = TECHNIQUES.get(name)
    if not 0 < share < 1:
        raise ConfigError(f"'share' must be above 0 and below 1, got {share}")
    targets = find_targets(pipe)
    if len(targets) != 1:
        raise ConfigError(f"'{name}' is found for one denoiser, and this pipeline has {len(targets)}")
    return AccelerationPlan(
        name=name,
        passes=(find(pipe, targets[0], run, share),),
        fingerprints=tuple(fingerprint(target) for target in targets),
        notes=(NOTE.format(paper=paper),),
    )


def calibrated_key_steps(
    curves: Curves, target: Target, *, num_keys: int, first_blocks: int | None = None
) -> EncoderPropagationConfig:
    """The key steps from which the encoder's outputs lie nearest to those of the steps that they serve.

    Faster Diffusion (arXiv 2312.09608) places them by hand where the encoder changes most. The sum of distances to the
    last key step is least by the grouping of :func:`~dit_accel.schedules.solvers.ordered_groups`. Of a transformer,
    distances of what the first blocks add are summed up.

    Args:
        curves: With the kinds of the encoder's modules (``conv_in``, ``down_block`` and ``mid_block``, or ``block``).
        target: The denoiser they are of.
        num_keys: How many.
        first_blocks: See :class:`EncoderPropagationConfig`.

    Raises:
        ConfigError: Nothing of the encoder was recorded.
    """
    whole = EncoderPropagationConfig(first_blocks=first_blocks)
    sites = [site.info.id for site in encoder_sites(target, whole) if site.info.id in curves.relative]
    if not sites:
        raise ConfigError(f"no module of the encoder of '{target.name}' was recorded")
    # Absolute differences of blocks add up in the stream; skips are of different sizes, so that theirs are relative.
    distances = curves.mean(sites, absolute=target.layout.graph.select(sites[0])[0].kind == "block")
    keys = ordered_groups(distances, num_keys)
    return EncoderPropagationConfig(key_steps=keys, num_steps=curves.num_steps, first_blocks=first_blocks)


def kept_sites(target: Target) -> tuple[str, ...]:
    """Ids of what a reusing step reuses: of a UNet the deep layers, as in DeepCache, of another model leaf outputs."""
    return tuple(GeneratorSpec("full_steps", n=2).build(target.layout.graph, 2).recompute)


def _count(share: float, num_steps: int) -> int:
    return max(1, round(share * num_steps))


def _registered(name: str, paper: str) -> Callable[[Find], Find]:
    def keep(find: Find) -> Find:
        TECHNIQUES.register(name)((paper, find))
        return find

    return keep


@_registered("smoothcache", "Liu et al., arXiv 2411.10510")
def _smoothcache(pipe: Any, target: Target, run: Callable[[], Any], share: float) -> PassConfig:
    curves = record_curves(pipe, run, kinds=LEAF_KINDS)
    return StaticCacheConfig(schedule=smoothcache_schedule(curves, share=share), invariants=False)


@_registered("cachequant", "Liu and Zhang, arXiv 2503.01323 (without its quantisation)")
def _cachequant(pipe: Any, target: Target, run: Callable[[], Any], share: float) -> PassConfig:
    sites = kept_sites(target)
    curves = record_curves(pipe, run, kinds=_kinds_of(target, sites))
    computed = ordered_groups(curves.mean(_recorded(curves, sites)), _count(share, curves.num_steps))
    schedule = Schedule(curves.num_steps, dict.fromkeys(sites, bits(computed, curves.num_steps)))
    return StaticCacheConfig(schedule=schedule, corrections=fit_corrections(pipe, run, schedule), invariants=False)


@_registered("meancache_path", "MeanCache, arXiv 2601.19961 (its choice of steps, not its prediction)")
def _meancache_path(pipe: Any, target: Target, run: Callable[[], Any], share: float) -> PassConfig:
    curves = record_curves(pipe, run, kinds=("model",))
    gaps = summed_gaps(curves.mean(curves.sites(("model",))))
    computed = shortest_path(gaps, _count(share, curves.num_steps), gamma=GAMMA)
    row = bits(computed, curves.num_steps)
    return StaticCacheConfig(
        schedule=Schedule(curves.num_steps, dict.fromkeys(kept_sites(target), row)), invariants=False
    )


@_registered("lemica", "LeMiCa, arXiv 2511.00090")
def _lemica(pipe: Any, target: Target, run: Callable[[], Any], share: float) -> PassConfig:
    num_steps = record_curves(pipe, run, kinds=("model",), horizon=1).num_steps
    sites = kept_sites(target)
    longest = max(LONGEST_GAP, int(np.ceil(1 / share)))
    gaps = record_gaps(pipe, run, sites, num_steps=num_steps, longest=longest)
    schedule = lemica_schedule(gaps, sites, num_computed=_count(share, num_steps))
    return StaticCacheConfig(schedule=schedule, invariants=False)


@_registered("faster_diffusion", "Li et al., arXiv 2312.09608 (its key steps by CacheQuant's grouping)")
def _faster_diffusion(pipe: Any, target: Target, run: Callable[[], Any], share: float) -> PassConfig:
    curves = record_curves(pipe, run, kinds=("conv_in", "down_block", "mid_block", "block"))
    return calibrated_key_steps(curves, target, num_keys=_count(share, curves.num_steps))


def _kinds_of(target: Target, sites: Iterable[str]) -> frozenset[str]:
    graph = target.layout.graph
    return frozenset(graph.sites[graph.index[site]].kind for site in sites)


def _recorded(curves: Curves, sites: Iterable[str]) -> list[str]:
    return [site for site in sites if site in curves.relative]
