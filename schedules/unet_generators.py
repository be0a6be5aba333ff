"""Schedules for UNets: DeepCache, the encoder propagation of Faster Diffusion, and A-SDM's inheritance."""

from collections.abc import Sequence

from dit_accel.schedules.generators import at_least, every_n, generator
from dit_accel.schedules.graph import SiteGraph, SiteInfo
from dit_accel.schedules.schedule import Schedule, ScheduleError
from dit_accel.schedules.spacing import crowded_around, quadratic, spaced

# Key steps of Faster Diffusion (Li et al., 2312.09608), as 0-based loop indices.
KEY_STEPS_50 = (0, 1, 2, 3, 5, 10, 15, 25, 35)
KEY_STEPS_20 = (0, 1, 2, 3, 5, 10, 15)

# Levels at which A-SDM's features are inherited, and what they are of.
LEVELS = ("block", "layer", "unit")
LAYERS = ("resnet", "transformer", "motion")
UNITS = ("resnet", "self_attn", "cross_attn", "ff")


def published_key_steps(num_steps: int) -> tuple[int, ...]:
    """The key steps of Faster Diffusion for a run of so many steps.

    They are the paper's for 50 steps (DDIM) and for 20 (DPM-Solver); of another count those at the same fractions of
    the 50, where the authors' code would leave all that follows step 35 in one segment.
    """
    published = {20: KEY_STEPS_20, 50: KEY_STEPS_50}
    return published.get(num_steps) or scaled_steps(KEY_STEPS_50, 50, num_steps)


def scaled_steps(steps: Sequence[int], made_for: int, num_steps: int) -> tuple[int, ...]:
    """Steps of a run of ``made_for`` at the same fractions of a run of ``num_steps``, each once."""
    return tuple(sorted({step * num_steps // made_for for step in steps}))


@generator
def encoder_propagation(graph: SiteGraph, num_steps: int, *, key_steps: Sequence[int] | None = None) -> Schedule:
    """Run the UNet's encoder only at key steps; the decoder runs at every step (Faster Diffusion, 2312.09608).

    This is the serial form of site caching. The pass of that name has the paper's batches of decoders as well.

    Args:
        key_steps: Steps at which ``conv_in``, the down blocks and the mid block run. Default: the paper's list for
            50 or 20 steps; for other counts the 50-step list at the same fractions of the trajectory.
    """
    _need_unet(graph, "encoder_propagation")
    keys = frozenset(published_key_steps(num_steps) if key_steps is None else key_steps)
    bits = [step in keys for step in range(num_steps)]
    encoder = graph.select(kinds=("conv_in", "down_block", "mid_block"))
    return Schedule(num_steps, {site.id: bits for site in encoder})


@generator
def deepcache(
    graph: SiteGraph,
    num_steps: int,
    *,
    n: int = 3,
    branch: int = 0,
    power: float | None = None,
    centre: int | None = None,
) -> Schedule:
    """On cached steps only the outermost path of the UNet runs (DeepCache, Ma et al., 2312.00858).

    Args:
        n: Full computation every n steps.
        branch: How many layers of the last up block run besides its last: 0 keeps the input of the very last layer.
        power: ``None`` spaces the full steps evenly; otherwise they crowd towards 40 % of the run, quadratically for
            2 (the paper's non-uniform schedule uses about 1.2 to 1.5).
        centre: With ``power``: crowd around this step, by the rule of the authors' code
            (:func:`~dit_accel.schedules.spacing.quadratic`); they take 15 of 50 with a power of 1.4.
    """
    _need_unet(graph, "deepcache")
    at_least("n", n, 1)
    last_up = [site.id for site in graph.select(kinds=("up_block",))][-1]
    layers = [site.id for site in graph.select(f"{last_up}.resnets.*", kinds=("resnet",))]
    if layers and not 0 <= branch < len(layers):
        raise ScheduleError(f"'branch' must be 0 to {len(layers) - 1} for this UNet, got {branch}")
    kept_layers = {layer.rsplit(".", 1)[1] for layer in layers[len(layers) - 1 - branch :]}
    if centre is not None and power is None:
        raise ScheduleError("'centre' says where the full steps crowd, and without 'power' they do not")
    computed = _full_steps(num_steps, n, power, centre)
    bits = [step in computed for step in range(num_steps)]
    rows: dict[str, Sequence[bool]] = {}
    for site in graph.schedulable:
        outer = site.kind in ("down_block", "mid_block", "up_block") and site.id != last_up
        # Of a UNet whose layers are not known the last block runs as a whole.
        inner = (
            layers
            and site.parent == last_up
            and site.kind != "resample"
            and site.id.rsplit(".", 1)[1] not in kept_layers
        )
        if outer or inner:
            rows[site.id] = bits
    return Schedule(num_steps, rows)


@generator
def inheritance(
    graph: SiteGraph,
    num_steps: int,
    *,
    level: str = "block",
    mode: str = "uniform",
    n: int = 2,
    power: float = 1.5,
    steps: Sequence[int] | None = None,
    outermost: int = 1,
) -> Schedule:
    """Parts of a UNet inherit what they gave at an earlier step (A-SDM, Zhu et al., arXiv 2406.00210).

    The abstract names the three levels and "multiple sampling modes" of the time steps; no code is public. Which parts
    inherit, and the modes, are our reading: all but the outermost blocks, through which the current latents flow.

    Args:
        level: ``"block"``: what a block returns, its skips with it. ``"layer"``: what each resnet with its attention
            returns; concatenation, resampling and the skips of the outer blocks are of the current step. ``"unit"``:
            each resnet, attention and feed-forward by itself; norms, residuals and projections are of the current
            step.
        mode: Where the active steps stand: ``"uniform"``, ``"early"``, ``"late"`` or ``"middle"``.
        n: One active step in n.
        power: How much they crowd where a mode says so; 1: not at all.
        steps: The active steps themselves, in place of ``mode`` and ``n``; step 0 always is one.
        outermost: How many blocks of either side never inherit.
    """
    _need_unet(graph, "inheritance")
    at_least("n", n, 1)
    at_least("outermost", outermost, 0)
    if level not in LEVELS:
        raise ScheduleError(f"'level' must be one of {', '.join(LEVELS)}, got '{level}'")
    sites = _levels_sites(graph, level, outermost)
    if not sites:
        raise ScheduleError(f"this UNet has nothing at the level '{level}' inside of its {outermost} outermost blocks")
    chosen = spaced(mode, num_steps, n, power) if steps is None else steps
    outside = [step for step in chosen if not 0 <= step < num_steps]
    if outside:
        raise ScheduleError(f"step {outside[0]} cannot be active in a run of {num_steps} steps")
    bits = [step == 0 or step in chosen for step in range(num_steps)]
    return Schedule(num_steps, dict.fromkeys(sites, bits))


@generator
def full_steps(graph: SiteGraph, num_steps: int, *, n: int = 2) -> Schedule:
    """One full step in n, whatever the denoiser: a UNet keeps its deep layers, any other one its leaf outputs.

    The rule behind the presets: :func:`deepcache` with ``branch=0``, or
    :func:`~dit_accel.schedules.generators.every_n`.
    """
    if graph.select(kinds=("up_block",)):
        return deepcache(graph, num_steps, n=n, branch=0)
    return every_n(graph, num_steps, n=n)


def _full_steps(num_steps: int, n: int, power: float | None, centre: int | None) -> frozenset[int]:
    count = -(-num_steps // n)
    if power is None:
        return frozenset(range(0, num_steps, n))
    if centre is not None:
        return frozenset(quadratic(num_steps, count, centre, power))
    return frozenset(crowded_around(num_steps, count, power))


def _levels_sites(graph: SiteGraph, level: str, outermost: int) -> list[str]:
    """Sites of a level in all blocks but the outermost ones of either side."""
    down, up = (graph.select(kinds=(kind,)) for kind in ("down_block", "up_block"))
    inner = (*down[outermost:], *graph.select(kinds=("mid_block",)), *up[: len(up) - outermost])
    blocks = {site.id for site in inner}
    if level == "block":
        return [site.id for site in inner]
    if level == "unit":
        return [site.id for site in graph.schedulable if site.kind in UNITS and _block_of(graph, site) in blocks]
    layers = [site.id for site in graph.schedulable if site.kind in LAYERS and site.parent in blocks]
    return [*layers, *(site.id for site in graph.select(kinds=("mid_block",)))]


def _block_of(graph: SiteGraph, site: SiteInfo) -> str | None:
    """The block of a UNet that a site lies in."""
    while site.parent not in (None, "model"):
        site = graph.sites[graph.index[site.parent]]
    return site.id


def _need_unet(graph: SiteGraph, name: str) -> None:
    if not graph.select(kinds=("up_block",)):
        raise ScheduleError(f"'{name}' is for UNets; this model has {', '.join(graph.kinds)}")
