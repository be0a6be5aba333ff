"""Two UNets take turns: a smaller one in a range of steps, the whole one in the others.

A-SDM's multi-UNet switching (Wang et al. 2024, arXiv 2406.00210): the assembled UNet, layers left out and convolutions
with experts (``assembly_module.py``), draws the early, noisy steps, where there is little detail to lose, and the
whole one finishes. Only the paper's abstract was at hand, so which steps are whose is a setting here. It counts steps
and not timesteps, as every pass does: with evenly spaced timesteps the share of a run is the share of the timesteps.
The assembled UNet is distilled for its own range by ``training.distill.assembly_loop``.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.families.targets import Target
from dit_accel.passes.assembly_module import add_experts, expert_layers, prune, pruned_layers
from dit_accel.passes.base import Pass, register_pass
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Call, Effect, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.sockets import ANSWERS
from dit_accel.runtime.trees import Tree

NAME = "unet_switching"
WHAT = "denoiser calls made by the assembled UNet"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UNetSwitchingConfig(PassConfig):
    """Let an assembled UNet make the denoiser calls of a range of steps.

    Args:
        begin_frac: Where its range begins, as a share of the steps of a run; 0 is pure noise.
        end_frac: Where it ends; the whole UNet makes the calls from here on.
        pruned: Layers that were left out of it.
        experts: Convolutions with experts, and how many each has.
        weights: Of the assembled UNet, by the names of its own state; empty: those of the whole one, with experts that
            are all alike.

    Raises:
        ConfigError: The range is none, or a number of experts is not positive.
    """

    type_name: ClassVar[str] = NAME

    begin_frac: float = 0.0
    end_frac: float = 0.5
    pruned: tuple[str, ...] = ()
    experts: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pruned", tuple(self.pruned))
        for name in ("begin_frac", "end_frac"):
            if not isinstance(getattr(self, name), int | float):
                raise ConfigError(f"'{NAME}': {name} must be a number, got {getattr(self, name)!r}")
        if not 0 <= self.begin_frac <= self.end_frac <= 1:
            raise ConfigError(
                f"'{NAME}': wanted 0 <= begin_frac <= end_frac <= 1, got {self.begin_frac} and {self.end_frac}"
            )
        if any(not isinstance(count, int) or count < 1 for count in self.experts.values()):
            raise ConfigError(f"'{NAME}': a convolution has one expert or more, got {dict(self.experts)}")

    @classmethod
    def of(cls, unet: nn.Module, *, begin_frac: float = 0.0, end_frac: float = 0.5) -> "UNetSwitchingConfig":
        """From an assembled UNet, its weights in half precision.

        Args:
            unet: After ``prune``, ``add_experts`` and training.
            begin_frac: See the class.
            end_frac: Likewise.
        """
        weights = {name: value.detach().cpu().half() for name, value in unet.state_dict().items()}
        return cls(
            begin_frac=begin_frac, end_frac=end_frac, pruned=pruned_layers(unet), experts=expert_layers(unet),
            weights=weights,
        )  # fmt: skip

    def steps_of(self, num_steps: int) -> frozenset[int]:
        """The steps of a run that are the assembled UNet's."""
        return frozenset(range(round(self.begin_frac * num_steps), round(self.end_frac * num_steps)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type_name,
            "version": self.version,
            "begin_frac": self.begin_frac,
            "end_frac": self.end_frac,
            "pruned": list(self.pruned),
            "experts": dict(self.experts),
        }

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.weights)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "UNetSwitchingConfig":
        cls.check_keys(data)
        return cls(**{**data, "weights": dict(tensors)})


class Switch:
    """Stands around every call of one denoiser and makes those of its steps with the assembled UNet.

    Args:
        config: The pass's.
        assembled: The other UNet.
    """

    def __init__(self, config: UNetSwitchingConfig, assembled: nn.Module) -> None:
        self.config, self.assembled = config, assembled
        self.steps: frozenset[int] = frozenset()
        self.made = 0

    def begin(self, run: Run) -> None:
        """A run begins."""
        self.steps, self.made = self.config.steps_of(run.num_steps), 0

    def answers(self, run: Run, branch: Hashable) -> frozenset[int]:
        """The steps at which the whole UNet is not called, for passes that keep values of its modules."""
        return self.config.steps_of(run.num_steps)

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Make the call with the UNet whose turn it is."""
        if call.step not in self.steps:
            return inner(call)
        latents = call.args[0] if call.args else call.kwargs["sample"]
        weight = next(self.assembled.parameters())
        if weight.device != latents.device or weight.dtype != latents.dtype:
            self.assembled.to(latents.device, latents.dtype)
        self.made += 1
        output: Tree = self.assembled(*call.args, **call.kwargs)
        return output


def apply_unet_switching(runtime: DenoiserRuntime, config: UNetSwitchingConfig) -> None:
    """Put the assembled UNet beside one denoiser.

    Raises:
        UnsupportedModelError: The weights are to be the whole UNet's, and it is quantised, offloaded or has adapters.
    """
    whole: Any = runtime.target.denoiser
    assembled = skeleton(whole, config)
    wanted = assembled.state_dict()
    found = config.weights or _own(whole, config)
    if found.keys() != wanted.keys():
        raise UnsupportedModelError(
            f"'{NAME}' takes the assembled UNet's weights from '{runtime.name}', which is quantised, offloaded or has "
            "adapters: apply it to the plain model, or give it weights of its own"
        )
    dtype = next(whole.parameters()).dtype
    state = {name: value.detach().to(dtype).clone() for name, value in found.items()}
    assembled.load_state_dict(state, assign=True)
    switch = Switch(config, assembled.requires_grad_(False).eval())
    runtime.each_run(switch.begin, by=NAME)
    runtime.around(switch, order=10, by=NAME, answers=switch.answers)


def skeleton(whole: nn.Module, config: UNetSwitchingConfig) -> Any:
    """The assembled UNet without weights, on the device ``meta``.

    Raises:
        ConfigError: A layer that is to be left out, or to have experts, is no such layer.
    """
    kind: Any = type(whole)
    with torch.device("meta"):
        unet = kind.from_config(whole.config)
        prune(unet, config.pruned)
        for name, count in config.experts.items():
            add_experts(unet, (name,), count)
    return unet


@torch.no_grad()
def _own(whole: nn.Module, config: UNetSwitchingConfig) -> dict[str, Tensor]:
    """The whole UNet's weights by the names of the assembled one; each expert is a copy, the router is indifferent."""
    state = dict(whole.state_dict())
    for name in config.pruned:
        kept = f"{name}.conv_shortcut."
        left = {key.replace(".conv_shortcut.", ".shortcut."): v for key, v in state.items() if key.startswith(kept)}
        state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")} | left
    for name, count in config.experts.items():
        if f"{name}.weight" not in state:
            continue
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = weight.repeat(count, 1, 1, 1, 1)
        if f"{name}.bias" in state:
            state[f"{name}.bias"] = state[f"{name}.bias"].repeat(count, 1)
        state[f"{name}.router.weight"] = weight.new_zeros(count, weight.shape[1])
        state[f"{name}.router.bias"] = weight.new_zeros(count)
    return state


def effect_of_unet_switching(runtime: DenoiserRuntime, config: UNetSwitchingConfig) -> Effect:
    """Share of the denoiser calls that the assembled UNet makes: planned, and of the last run."""
    switch, stats = runtime.around_of(NAME), runtime.stats
    assert isinstance(switch, Switch)
    if not stats.calls:
        return Effect(what=WHAT, planned_frac=config.end_frac - config.begin_frac)
    planned = len(config.steps_of(stats.num_steps)) / stats.num_steps
    return Effect(what=WHAT, planned_frac=planned, actual_frac=switch.made / stats.calls, total=stats.calls)


def _obstacles(target: Target, config: UNetSwitchingConfig) -> list[str]:
    if getattr(target.denoiser, "down_blocks", None) is None or not hasattr(target.denoiser, "config"):
        return [f"{type(target.denoiser).__name__} is no UNet of diffusers"]
    try:
        wanted = skeleton(target.denoiser, config).state_dict()
    except ConfigError as error:
        return [str(error)]
    for name in sorted(config.weights.keys() ^ wanted.keys()) if config.weights else ():
        return [
            f"'{name}' is in {'the plan' if name in config.weights else 'the model'} only: another model's weights"
        ]
    for name, value in config.weights.items():
        if value.shape != wanted[name].shape:
            return [f"'{name}' is {list(wanted[name].shape)}, in the plan {list(value.shape)}"]
    return []


register_pass(
    Pass(
        config=UNetSwitchingConfig,
        summary="lets a smaller, distilled UNet make the calls of the noisy steps",
        phase="calls",
        claims=frozenset((ANSWERS,)),
        obstacles=_obstacles,
        example=UNetSwitchingConfig,
        apply=apply_unet_switching,
        effect=effect_of_unet_switching,
    )
)
