"""SLA (Zhang et al., arXiv 2509.24006): the blocks with the most similar means exactly, the rest by linear attention.

As a pass it is what a plan says: without weights sparse attention alone, which needs no training and wants a density
of 0.3 to 0.5; with the weights of a fine-tuned model also the linear branch, made for a density of 0.05 to 0.2.
:func:`trainable_sla` puts the same attention into a denoiser that is to be trained.

Departures: at least one block is kept (the code keeps none where density * blocks < 1, and divides by nothing); rows
that compute everything get no linear part; the least weighted blocks are not dropped from the linear branch, which the
authors' code does not do either.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.families.targets import Target, find_targets
from dit_accel.kernels.block_sparse import HEAD_DIMS
from dit_accel.kernels.block_table import BLOCK_SIZES
from dit_accel.kernels.linear_attention import FEATURE_MAPS, FeatureMap
from dit_accel.passes.attention.choosing import AttendedSequence, Choosing
from dit_accel.passes.attention.layers import DEFAULT_STEPS, no_attention
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.ordering import Order, check_order
from dit_accel.passes.attention.routing import ANSWERED, SCORES, UNASKED, Route, routable, route
from dit_accel.passes.attention.rules import DenseRules
from dit_accel.passes.attention.sla_module import SCOPES, Scope, SLAAttention
from dit_accel.passes.base import Pass, register_pass
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.ledger import PatchLedger

NAME = "sla"
SUBMODULE = "sla"
"""What the module is called inside of the attention module that it answers for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SLAConfig(DenseRules):
    """Compute the blocks with the most similar means, and what was trained for the rest.

    Args:
        density: Share of the key blocks that each block of queries computes exactly, at least one.
        block: Tokens in a block.
        feature_map: Of the linear branch: ``"softmax"`` (over a head's dimensions), ``"elu"`` or ``"relu"``.
        scope: What the linear branch sees: ``"marginal"`` or ``"all"``, see
            :class:`~dit_accel.passes.attention.sla_module.SLAAttention`.
        order: What blocks are cut from: tokens as they are, ``"raster"``, or small boxes of frames, rows and columns,
            ``"tiles"``, which gathers what is near into few blocks and costs four permutations.
        weights: fp32, for each trained layer ``"<site>.weight"`` [D, D] and ``"<site>.bias"`` [D]; without any there
            is no linear branch.

    Raises:
        ConfigError: A value out of range, or weights that do not go together.
    """

    type_name: ClassVar[str] = NAME

    density: float = 0.3
    block: int = 64
    feature_map: FeatureMap = "softmax"
    scope: Scope = "marginal"
    order: Order = "raster"
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_rules()
        check_order(NAME, self.order)
        if not isinstance(self.density, int | float) or not 0 < self.density <= 1:
            raise ConfigError(f"'{NAME}': density must be a number in (0, 1], got {self.density!r}")
        for name, value, known in (
            ("block", self.block, BLOCK_SIZES),
            ("feature_map", self.feature_map, FEATURE_MAPS),
            ("scope", self.scope, SCOPES),
        ):
            if value not in known:
                raise ConfigError(f"'{NAME}': {name} must be one of {', '.join(map(str, known))}, got {value!r}")
        for name, weight in self.weights.items():
            layer, _, kind = name.rpartition(".")
            other = self.weights.get(f"{layer}.bias" if kind == "weight" else f"{layer}.weight")
            fits = isinstance(weight, Tensor) and isinstance(other, Tensor) and weight.shape[-1] == other.shape[-1]
            if kind not in ("weight", "bias") or not fits or weight.ndim != 1 + (kind == "weight"):
                raise ConfigError(
                    f"'{NAME}': weights come in pairs 'LAYER.weight' [D, D], 'LAYER.bias' [D]; see '{name}'"
                )

    @property
    def layers(self) -> tuple[str, ...]:
        """Sites that have weights."""
        return tuple(name.removesuffix(".weight") for name in self.weights if name.endswith(".weight"))

    def to_dict(self) -> dict[str, Any]:
        fields = super(SLAConfig, self).to_dict()
        del fields["weights"]
        return fields

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.weights)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "SLAConfig":
        cls.check_keys(data)
        return cls(**data, weights=dict(tensors))

    def attention(self, head_dim: int, *, linear: bool) -> SLAAttention:
        """One layer's, untrained."""
        return SLAAttention(
            head_dim,
            density=self.density,
            block=self.block,
            feature_map=self.feature_map,
            scope=self.scope,
            order=self.order,
            linear=linear,
        )


class _TrainingRoute(Route):
    """Training that goes another way than it says would train nothing, so that is an error."""

    def became(self, outcome: str) -> None:
        if outcome not in (ANSWERED, UNASKED):
            raise UnsupportedModelError(f"'{NAME}' cannot be trained on this call: {outcome}")


class TrainableSLA:
    """A denoiser with SLA in place of its self-attention, to be trained; :meth:`remove` puts back what was there.

    Attributes:
        config: How it was made.
        layers: For each attention site its :class:`SLAAttention`, which is also the submodule ``sla`` of the attention
            module: optimisers, LoRA, devices and ``state_dict`` see its parameters.
    """

    def __init__(self, denoiser: nn.Module, config: SLAConfig) -> None:
        self.config = config
        self.layers: dict[str, SLAAttention] = {}
        self._ledger = PatchLedger()
        (target,) = find_targets(denoiser)
        if reasons := _obstacles(target, config):
            raise UnsupportedModelError(f"'{NAME}' cannot be trained on this model: {reasons[0]}")
        acting = list(routable(target))[config.dense_layers :]
        for site, module in acting:
            if (size := _head_dim(module)) not in HEAD_DIMS:
                raise UnsupportedModelError(
                    f"'{NAME}' cannot be trained on this model: heads of '{site.info.id}' are of size {size}, and "
                    f"there are kernels for {', '.join(map(str, HEAD_DIMS))}"
                )
        for site, module in acting:
            attention = _with_weights(config, site.info.id, _head_dim(module), linear=True)
            attention.to(device=next(denoiser.parameters()).device)
            self._ledger.set(module, SUBMODULE, attention, by=NAME)
            route(module, self._ledger, by=NAME, kind=_TrainingRoute).attend = attention
            self.layers[site.info.id] = attention

    def begin(self, size: tuple[int, int, int], text: tuple[int, int] | None = None) -> None:
        """Say how the sequences are made up that come next: where there is text, or ``order`` is tiles.

        Args:
            size: Frames, rows and columns of tokens.
            text: First and one past the last token of text; ``None``: the sequence has none.
        """
        layout = TokenLayout(size, text)
        sequence = AttendedSequence(length=layout.length, text=text, layout=layout)
        for attention in self.layers.values():
            sequence = sequence.on(next(attention.parameters()).device)
            attention.begin(sequence)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the projections alone."""
        for attention in self.layers.values():
            yield from attention.parameters()

    def trained(self, **changes: Any) -> SLAConfig:
        """What was trained so far as a config for :func:`~dit_accel.accelerate_pipeline` and for plan files.

        Args:
            changes: Other settings of it, as ``dense_steps_frac``.
        """
        weights = {
            f"{name}.{kind}": tensor.detach().to("cpu", torch.float32).clone().contiguous()
            for name, attention in self.layers.items()
            for kind, tensor in attention.proj.state_dict().items()  # type: ignore[union-attr]
        }
        return replace(self.config, weights=weights, **changes)

    def remove(self) -> None:
        """Put back what was there. The weights of the denoiser itself stay as trained."""
        self._ledger.undo()


def trainable_sla(denoiser: nn.Module, config: SLAConfig) -> TrainableSLA:
    """Put SLA into a bare denoiser, for fine-tuning it with gradients through both branches.

    Args:
        denoiser: Of diffusers; where text is part of the sequence, :meth:`TrainableSLA.begin` has to say where.
        config: ``dense_layers`` is kept to; steps are the business of whoever trains. Weights in it are gone on with.

    Raises:
        UnsupportedModelError: None of its attention can be routed, its heads have no kernel, or the weights are of
            another model; later, a call that comes with a mask or in another way cannot be sparse.
    """
    return TrainableSLA(denoiser, config)


def apply_sla(runtime: DenoiserRuntime, config: SLAConfig) -> None:
    """Give every self-attention of one denoiser a route through SLA."""
    passing = Choosing(runtime, config)
    for number in passing.acting():
        layer = passing.sparse.layers[number]
        linear = layer.site_id in config.layers
        attention = _with_weights(config, layer.site_id, _head_dim(layer.module), linear=linear)
        attention.requires_grad_(False).eval()
        if linear:
            runtime.ledger.set(layer.module, SUBMODULE, attention, by=NAME)
        passing.attends[number] = attention
    runtime.each_run(passing.begin, by=NAME)
    runtime.around(passing, order=100, by=NAME)


def effect_of_sla(runtime: DenoiserRuntime, config: SLAConfig) -> Effect:
    """Share of the self-attention scores that were not computed."""
    passing = runtime.around_of(NAME)
    assert isinstance(passing, Choosing)
    return passing.sparse.effect(passing.planned(runtime.stats.num_steps if runtime.stats.calls else DEFAULT_STEPS))


def _with_weights(config: SLAConfig, site: str, head_dim: int, *, linear: bool) -> SLAAttention:
    attention = config.attention(head_dim, linear=linear)
    if attention.proj is not None and site in config.layers:
        with torch.no_grad():
            attention.proj.weight.copy_(config.weights[f"{site}.weight"])
            attention.proj.bias.copy_(config.weights[f"{site}.bias"])
    return attention


def _head_dim(module: nn.Module) -> int:
    """D, from the projection of queries, whose name all of diffusers' attention modules share; 0: it has none."""
    width = getattr(getattr(module, "to_q", None), "out_features", 0) or getattr(module, "inner_dim", 0)
    return int(width) // max(1, int(getattr(module, "heads", 1)))


def _obstacles(target: Target, config: SLAConfig) -> list[str]:
    found = {site.info.id: module for site, module in routable(target)}
    missing = [layer for layer in config.layers if layer not in found]
    if missing:
        return [
            f"its weights are for layers that it does not have ({', '.join(missing[:3])}): they are of another model"
        ]
    wrong = [layer for layer in config.layers if len(config.weights[f"{layer}.bias"]) != _head_dim(found[layer])]
    if wrong:
        size, own = len(config.weights[f"{wrong[0]}.bias"]), _head_dim(found[wrong[0]])
        return [f"its weights are for heads of size {size}, and those of '{wrong[0]}' have {own}"]
    return no_attention(target)


register_pass(
    Pass(
        config=SLAConfig,
        summary="computes the blocks with the most similar means, and what was trained for the rest",
        phase="modules",
        claims=frozenset((SCORES,)),
        obstacles=_obstacles,
        example=SLAConfig,
        apply=apply_sla,
        effect=effect_of_sla,
    )
)
