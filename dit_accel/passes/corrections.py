"""How a kept output answers: by an affine map of each channel, or by a forecast from the last two or three.

Correcting the kept value channel by channel is CacheQuant's (Liu and Zhang, arXiv 2503.01323, section 3.2),
forecasting it from several TaylorSeer's (arXiv 2503.06923), whose finite differences are one choice of our weights;
fitting them by least squares is both at once. :mod:`dit_accel.calibration.corrections` fits.
"""

from collections.abc import Collection, Iterable, Mapping

import torch

from dit_accel.errors import ConfigError, PlanMismatchError
from dit_accel.families.base import BoundSite
from dit_accel.runtime.call import Call
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree, leaves, map_tree
from dit_accel.schedules import GeneratorSpec, Schedule
from dit_accel.schedules.kept import kept_steps, taylor_weights

SEVERAL_OUTPUTS = ("joint_attn", "down_block", "model")
PARTS = ("scale", "shift", "nodes")
MAX_DEPTH = 3

Corrections = Mapping[str, torch.Tensor]


class Corrected:
    """A keeper: scale times the kept values, summed up, plus shift; all of the step at hand and of each channel.

    A forecast from several values holds for the evaluations it was made for. Where others are kept (image-to-image
    begins late, a run has another number of steps) the last value answers as it is.

    Args:
        runtime: Of the denoiser.
        corrections: See :class:`~dit_accel.passes.static_cache.StaticCacheConfig`.
        site: Whose kept values they are.
    """

    def __init__(self, runtime: DenoiserRuntime, corrections: Corrections, site: BoundSite) -> None:
        self.denoiser = runtime.target.denoiser
        name = site.info.id
        scale, self.shift = corrections[f"{name}.scale"], corrections[f"{name}.shift"]
        self.scale = scale.unsqueeze(1) if scale.dim() == 2 else scale
        self.depth = self.scale.shape[1]
        table = corrections.get(f"{name}.nodes")
        self.nodes = None if table is None else [tuple(n for n in row if n >= 0) for row in table.tolist()]
        self.as_it_is = torch.zeros_like(self.scale[0])
        self.as_it_is[0] = 1.0

    def numbers(self, call: Call, steps: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """Scale [K, C] and shift [C] of the step that stands at the same part of the trajectory."""
        row = call.step * len(self.scale) // call.run.num_steps
        scale, shift = self.scale[row], self.shift[row]
        if self.nodes is not None and self.nodes[row] != steps:
            scale, shift = self.as_it_is, torch.zeros_like(shift)
        parameter = next(self.denoiser.parameters())
        return tuple(part.to(parameter.device, parameter.dtype) for part in (scale, shift))

    def recall(self, values: tuple[Tree, ...], numbers: tuple[torch.Tensor, ...]) -> Tree:
        """The corrected value, [B, N, C] or [B, C, H, W]; in a tuple of one if it was kept so (a UNet's attention)."""
        scale, shift = numbers
        kept = [leaves(value)[0] for value in values]
        if kept[0].dim() == 4:
            scale, shift = scale[..., None, None], shift[..., None, None]
        total = kept[0] * scale[0] + shift
        for place in range(1, self.depth):
            total = total + kept[place] * scale[place]
        return map_tree(lambda _: total, values[0])


def taylor_corrections(
    schedule: Schedule, sites: Iterable[str], *, order: int = 1, absent: Collection[int] = ()
) -> dict[str, torch.Tensor]:
    """Corrections that are a Taylor series by finite differences, for which no run of the model is needed.

    Args:
        schedule: Which outputs are reused.
        sites: Ids of those that are to be forecast; each returns one tensor.
        order: 1 for a line through two kept values, 2 for a parabola through three.
        absent: Evaluations that a trajectory in the same plan answers.

    Raises:
        ConfigError: Another order.
    """
    if order not in range(1, MAX_DEPTH):
        raise ConfigError(f"a Taylor forecast is of order 1 or 2, got {order!r}")
    found: dict[str, torch.Tensor] = {}
    for site in sites:
        if site not in schedule.recompute:
            continue
        weights = torch.zeros(schedule.num_steps, order + 1, 1)
        weights[:, 0] = 1.0
        nodes = torch.full((schedule.num_steps, order + 1), -1)
        for step, kept in enumerate(kept_steps(schedule.recompute[site], order + 1, absent)):
            if kept is not None:
                weights[step, : len(kept), 0] = torch.tensor(taylor_weights(kept, step))
                nodes[step, : len(kept)] = torch.tensor(kept)
        found |= {f"{site}.scale": weights, f"{site}.shift": torch.zeros(schedule.num_steps, 1)}
        found[f"{site}.nodes"] = nodes
    return found


def corrected_sites(corrections: Corrections) -> tuple[str, ...]:
    """Ids of the sites that have corrections."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in corrections))


def check_site(runtime: DenoiserRuntime, site: str) -> None:
    """Refuse a correction of a site that has no single raw output.

    Raises:
        PlanMismatchError: It has none, or the model has no such site.
    """
    if site not in runtime.graph:
        raise PlanMismatchError(f"{runtime.name}: a correction is for '{site}', which this model does not have")
    position = runtime.graph.index[site]
    if runtime.target.layout.sites[position].streams:
        raise PlanMismatchError(f"{runtime.name}: '{site}' keeps a residual; corrections are for raw outputs")
    if runtime.graph.sites[position].kind in SEVERAL_OUTPUTS:
        raise PlanMismatchError(f"{runtime.name}: '{site}' returns several tensors; corrections are for one")


def check_corrections(schedule: Schedule | GeneratorSpec, corrections: Corrections) -> None:
    """Refuse tables that do not fit each other or the schedule.

    Raises:
        ConfigError: They do not.
    """
    for name, table in corrections.items():
        site, _, part = name.rpartition(".")
        if part not in PARTS or not site:
            raise ConfigError(f"correction '{name}' must end in '.scale' or '.shift' (or '.nodes', of a forecast)")
        if f"{site}.{'shift' if part == 'scale' else 'scale'}" not in corrections:
            raise ConfigError(f"correction '{name}' has no partner; a site needs both scale and shift")
        if not isinstance(schedule, Schedule):
            raise ConfigError("corrections belong to a schedule with a fixed number of steps, not to a generator")
        if not isinstance(table, torch.Tensor):
            raise ConfigError(f"correction '{name}' must be a tensor, got {type(table).__name__}")
        wanted = (2, 3) if part == "scale" else (2,)
        if table.dim() not in wanted or len(table) != schedule.num_steps:
            raise ConfigError(
                f"correction '{name}' has shape {list(table.shape)}, wanted [{schedule.num_steps}, channels]"
                + (f" or [{schedule.num_steps}, kept values, channels]" if part == "scale" else "")
            )
        bad = int((~torch.isfinite(table)).sum())
        if bad:
            raise ConfigError(f"correction '{name}' holds {bad} values that are not finite (NaN or infinity)")
    for site in corrected_sites(corrections):
        _check_forecast(site, corrections)


def _check_forecast(site: str, corrections: Corrections) -> None:
    if f"{site}.shift" not in corrections:
        raise ConfigError(f"correction '{site}.scale' has no partner; a site needs both scale and shift")
    scale, shift, nodes = (corrections.get(f"{site}.{part}") for part in PARTS)
    assert scale is not None and shift is not None
    if scale.shape[-1] != shift.shape[-1]:
        raise ConfigError(
            f"corrections of '{site}' are for {scale.shape[-1]} channels (scale) and {shift.shape[-1]} (shift)"
        )
    if scale.dim() == 2:
        if nodes is not None:
            raise ConfigError(f"correction '{site}.nodes' belongs to a forecast, whose scale has three axes")
        return
    depth = scale.shape[1]
    if not 1 <= depth <= MAX_DEPTH:
        raise ConfigError(f"the forecast of '{site}' reads {depth} kept values; 1 to {MAX_DEPTH} are possible")
    if nodes is None or nodes.shape != scale.shape[:2] or nodes.is_floating_point():
        raise ConfigError(
            f"the forecast of '{site}' needs '{site}.nodes', whole numbers {list(scale.shape[:2])}: which evaluations "
            "each step combines, newest first, -1 for none"
        )
