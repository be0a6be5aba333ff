"""Schedules for UNets: DeepCache and the encoder propagation of Faster Diffusion."""

import math
from collections.abc import Sequence

from dit_accel.schedules.generators import at_least, every_n, generator
from dit_accel.schedules.graph import SiteGraph
from dit_accel.schedules.schedule import Schedule, ScheduleError

# Key steps of Faster Diffusion (Li et al., 2312.09608), as 0-based loop indices.
KEY_STEPS_50 = (0, 1, 2, 3, 5, 10, 15, 25, 35)
KEY_STEPS_20 = (0, 1, 2, 3, 5, 10, 15)


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
    graph: SiteGraph, num_steps: int, *, n: int = 3, branch: int = 0, power: float | None = None
) -> Schedule:
    """On cached steps only the outermost path of the UNet runs (DeepCache, Ma et al., 2312.00858).

    Args:
        n: Full computation every n steps.
        branch: How many layers of the last up block run besides its last: 0 keeps the input of the very last layer.
        power: ``None`` spaces the full steps evenly; otherwise they crowd towards 40 % of the run, quadratically for
            2 (the paper's non-uniform schedule uses about 1.2 to 1.5).
    """
    _need_unet(graph, "deepcache")
    at_least("n", n, 1)
    last_up = [site.id for site in graph.select(kinds=("up_block",))][-1]
    layers = [site.id for site in graph.select(f"{last_up}.resnets.*", kinds=("resnet",))]
    if layers and not 0 <= branch < len(layers):
        raise ScheduleError(f"'branch' must be 0 to {len(layers) - 1} for this UNet, got {branch}")
    kept_layers = {layer.rsplit(".", 1)[1] for layer in layers[len(layers) - 1 - branch :]}
    computed = _full_steps(num_steps, n, power)
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
def full_steps(graph: SiteGraph, num_steps: int, *, n: int = 2) -> Schedule:
    """One full step in n, whatever the denoiser: a UNet keeps its deep layers, any other one its leaf outputs.

    The rule behind the presets: :func:`deepcache` with ``branch=0``, or
    :func:`~dit_accel.schedules.generators.every_n`.
    """
    if graph.select(kinds=("up_block",)):
        return deepcache(graph, num_steps, n=n, branch=0)
    return every_n(graph, num_steps, n=n)


def _full_steps(num_steps: int, n: int, power: float | None) -> frozenset[int]:
    count = -(-num_steps // n)
    if power is None:
        return frozenset(range(0, num_steps, n))
    centre = 0.4 * num_steps
    low, high = -(centre ** (1 / power)), (num_steps - centre) ** (1 / power)
    points = [low + (high - low) * i / count for i in range(count)]
    return frozenset({0, *(min(num_steps - 1, max(0, round(_signed(p, power) + centre))) for p in points)})


def _signed(value: float, power: float) -> float:
    return math.copysign(math.pow(abs(value), power), value)


def _need_unet(graph: SiteGraph, name: str) -> None:
    if not graph.select(kinds=("up_block",)):
        raise ScheduleError(f"'{name}' is for UNets; this model has {', '.join(graph.kinds)}")
