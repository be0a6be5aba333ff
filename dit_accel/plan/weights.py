"""A sample of a model's weights: tells a finetune, or a fused LoRA, from the model that was measured."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

MAX_VALUES = 256
ROUNDING = 2.0**-7  # twice the relative rounding of bfloat16 to be safe with weights that were rounded twice
SMALLEST = 1e-6  # below this float16 has no exact values


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSample:
    """One value of each weight matrix, of at most ``MAX_VALUES`` of them.

    Attributes:
        dtype: Type of the weights, e.g. ``"float32"``.
        values: The values, in the order of the matrices' names.
    """

    dtype: str
    values: tuple[float, ...]

    def is_of(self, found: "WeightSample") -> bool:
        """Whether both are of the same weights: equal, or, in another type, equal up to its rounding."""
        if len(self.values) != len(found.values):
            return False
        if self.dtype == found.dtype:
            return self.values == found.values
        pairs = zip(self.values, found.values, strict=True)
        return all(abs(a - b) <= ROUNDING * max(abs(a), abs(b)) + SMALLEST for a, b in pairs)


def sample_weights(denoiser: "nn.Module") -> WeightSample | None:
    """Look at a denoiser's own weights, adapters left out; ``None`` where they cannot be read (offloaded, quantised).

    Reads values, so it waits for the device: for when a plan is applied, not for a run.
    """
    named = {
        name.replace("base_layer.", ""): parameter
        for name, parameter in denoiser.named_parameters()
        if parameter.dim() >= 2 and parameter.is_floating_point() and "lora_" not in name
    }
    names = sorted(named)
    if not names or any(parameter.device.type == "meta" for parameter in named.values()):
        return None
    count = min(MAX_VALUES, len(names))
    chosen = [named[names[number * len(names) // count]] for number in range(count)]
    try:
        values = tuple(float(p.detach().reshape(-1)[p.numel() // 2]) for p in chosen)
    except (RuntimeError, NotImplementedError, TypeError):  # a tensor subclass that cannot be indexed
        return None
    return WeightSample(dtype=str(chosen[0].dtype).removeprefix("torch."), values=values)
