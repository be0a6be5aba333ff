"""Linear attention in chosen layers of a model that was trained for it (LinVideo, arXiv 2510.08318).

Which layers, and their feature maps, are found by ``dit-accel linearize``; what else the model learned for it is an
adapter, the pass ``distilled`` of the same plan. The saving grows with the number of tokens: there is none below a few
thousand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target
from dit_accel.passes.attention.layers import SparseLayers
from dit_accel.passes.attention.routing import SCORES, Attend, routable
from dit_accel.passes.base import Pass, register_pass
from dit_accel.passes.linear_attention_module import LinearAttention, head_dim_of, obstacles
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Call, Effect, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree

NAME = "linear_attention"
KINDS = ("query", "key")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearAttentionConfig(PassConfig):
    """Answer the self-attention of some layers by linear attention.

    Args:
        weights: For each of these layers the feature maps ``"<site>.query"`` and ``"<site>.key"``, float32 [D, D].

    Raises:
        ConfigError: The weights do not go together.
    """

    type_name: ClassVar[str] = NAME

    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            layer, _, kind = name.rpartition(".")
            other = self.weights.get(f"{layer}.{'key' if kind == 'query' else 'query'}")
            square = isinstance(weight, Tensor) and weight.dim() == 2 and weight.shape[0] == weight.shape[1]
            if kind not in KINDS or other is None or not square or weight.shape != other.shape:
                raise ConfigError(
                    f"'{NAME}': weights come in pairs 'LAYER.query', 'LAYER.key', both [D, D]; see '{name}'"
                )

    @property
    def layers(self) -> tuple[str, ...]:
        """Sites whose attention is linear."""
        return tuple(name.removesuffix(".query") for name in self.weights if name.endswith(".query"))

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type_name, "version": self.version}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.weights)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "LinearAttentionConfig":
        cls.check_keys(data)
        return cls(weights=dict(tensors))


class Linear:
    """Stands around every call of one denoiser."""

    def __init__(self, runtime: DenoiserRuntime, config: LinearAttentionConfig) -> None:
        self.layers = SparseLayers(runtime, by=NAME)
        self.attends: list[Attend | None] = []
        for layer in self.layers.layers:
            answer = None
            if layer.site_id in config.layers:
                answer = LinearAttention(head_dim_of(layer.module)).requires_grad_(False).eval()
                answer.query.data = config.weights[f"{layer.site_id}.query"].float()
                answer.key.data = config.weights[f"{layer.site_id}.key"].float()
            self.attends.append(answer)
        self.left_out = [1.0 if attend is not None else 0.0 for attend in self.attends]

    def begin(self, run: Run) -> None:
        """A run begins."""
        self.layers.begin(length=None, dense_because=None)

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Compute the call with linear attention where it is chosen."""
        device = next(self.layers.runtime.target.denoiser.parameters()).device
        for attend in self.attends:
            if isinstance(attend, LinearAttention) and attend.query.device != device:
                attend.to(device)
        return self.layers.compute(call, inner, self.attends, self.left_out)


def apply_linear_attention(runtime: DenoiserRuntime, config: LinearAttentionConfig) -> None:
    """Give the chosen layers of one denoiser a route through linear attention."""
    linear = Linear(runtime, config)
    runtime.each_run(linear.begin, by=NAME)
    runtime.around(linear, order=100, by=NAME)


def effect_of_linear_attention(runtime: DenoiserRuntime, config: LinearAttentionConfig) -> Effect:
    """Share of the scores of self-attention that were not computed."""
    linear = runtime.around_of(NAME)
    assert isinstance(linear, Linear)
    return linear.layers.effect(sum(linear.left_out) / max(1, len(linear.left_out)))


def _obstacles(target: Target, config: LinearAttentionConfig) -> list[str]:
    found = obstacles(target, config.layers)
    if found:
        return found
    sizes = {site.info.id: head_dim_of(module) for site, module in routable(target) if site.info.id in config.layers}
    for layer in config.layers:
        size = len(config.weights[f"{layer}.query"])
        if size != sizes[layer]:
            return [f"its weights are for heads of size {size}, and those of '{layer}' have {sizes[layer]}"]
    return []


register_pass(
    Pass(
        config=LinearAttentionConfig,
        summary="answers the self-attention of chosen layers by linear attention that was trained for it",
        phase="modules",
        claims=frozenset((SCORES,)),
        obstacles=_obstacles,
        example=LinearAttentionConfig,
        apply=apply_linear_attention,
        effect=effect_of_linear_attention,
    )
)
