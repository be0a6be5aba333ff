"""What a quantisation plan says: which layers are of how many bits, and what calibration found for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch

from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.scheme import PLAIN, QuantScheme
from dit_accel.passes.quantize.ways import AUTO, check_policy
from dit_accel.plan.config import PassConfig

NAME = "quantize"
Originals = Literal["keep", "drop"]
# What may be stored of a layer, behind its name and a dot.
FOUND = ("inverse_smooth", "left", "right", "act_scale", "gain", "bias")
WEIGHT = ("values", "scale", "multiplier", "zero")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizeConfig(PassConfig):
    """Compute linear layers with weights, and as a rule activations, of 4 or 8 bits.

    Without anything stored, weights are rounded to the nearest when the plan is applied and activations are scaled
    token by token as they come. ``dit-accel quantize`` finds what makes it closer: factors that smooth input channels,
    fixed scales, and which layer gets how many bits.

    Args:
        bits: Scheme of the layers inside of blocks: ``"w8a8"``, ``"w4a8"``, ``"fp8"``, ...; see
            :class:`~dit_accel.passes.quantize.scheme.QuantScheme`. ``"plain"``: only what ``layers`` name, and what
            modulates if ``modulation`` says so, is quantised.
        convs: Scheme of the convolutions inside of blocks, those of UNets.
        modulation: Scheme of the layers that see the timestep alone, whose weights take memory and no time;
            ``"plain"``: they stay as they are, ``"auto"``: weights of as many bits as those of ``bits``.
        components: Schemes of other parts of the pipeline: ``{"text_encoder": "w8a8", "vae.decoder": "w8a8"}``, for
            the layers inside of their blocks.
        layers: Schemes of single layers, by name (``transformer.blocks.0.attn1.to_q``) or shell-style pattern; the
            first pattern that matches counts, and a name before any pattern. ``"plain"``: as it is.
        backend: ``"auto"``: for each shape the fastest way on this machine, timed when the plan is applied; one of
            them is to multiply the weights out. ``"integers"``: the fastest of those that multiply integers, so that
            results do not depend on what was fast. ``"torchao"``: its kernels where it knows the grids of a layer,
            else integers. Or the name of one way.
        exact_first: So many steps at the start of a run are computed with the weights as they were; both are then in
            memory.
        exact_last: So many steps at the end.
        originals: ``"keep"``: weights as they were go to the main memory, and it can be undone; a model that lies
            there itself takes more than before. ``"drop"``: they are let go at the first run, and undoing is refused.
        stored: What was found for single layers, by ``<layer>.<what>``: ``inverse_smooth`` fp32 [K], ``left`` and
            ``right`` fp32 [n1, n1] and [n2, n2] of a learned transform, ``act_scale`` fp32 [bins], ``gain`` and
            ``bias`` [N]; and weights in few bits, ``values``, ``scale``, ``multiplier``, ``zero``.

    Raises:
        ConfigError: A value is not valid, or what is stored is of no use.
    """

    type_name: ClassVar[str] = NAME
    is_timed_by_device: ClassVar[bool] = True

    bits: str = "w8a8"
    convs: str = "w8a8"
    modulation: str = AUTO
    components: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    backend: str = AUTO
    exact_first: int = 0
    exact_last: int = 0
    originals: Originals = "keep"
    stored: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("layers", "components"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigError(
                    f"'{NAME}': {name} must be names or patterns to schemes, got {getattr(self, name)!r}"
                )
        for place, text in {
            "bits": self.bits,
            "convs": self.convs,
            "modulation": self.modulation_scheme,
            **self.components,
            **self.layers,
        }.items():
            try:
                scheme_of(text)
            except ConfigError as error:
                raise ConfigError(f"'{NAME}': {place}: {error}") from error
        if self.bits == PLAIN and not self.layers:
            raise ConfigError(f"'{NAME}': with bits '{PLAIN}' and no layers there is nothing to do")
        check_policy(self.backend)
        for name in ("exact_first", "exact_last"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"'{NAME}': {name} must be a whole number of steps from 0, got {value!r}")
        if self.originals not in get_args(Originals):
            raise ConfigError(f"'{NAME}': originals must be 'keep' or 'drop', got {self.originals!r}")
        if self.has_exact_steps and self.originals == "drop":
            raise ConfigError(f"'{NAME}': exact steps take the weights as they were: originals='keep'")
        for name, tensor in self.stored.items():
            if name.rpartition(".")[2] not in (*FOUND, *WEIGHT) or not isinstance(tensor, torch.Tensor):
                raise ConfigError(f"'{NAME}': '{name}' is nothing that is stored of a layer")

    @property
    def modulation_scheme(self) -> str:
        """Scheme of the layers that see the timestep alone."""
        if self.modulation != AUTO:
            return self.modulation
        if self.bits == PLAIN:
            return PLAIN
        return "w4a16" if self.bits.startswith("w4") else "w8a16"

    @property
    def conv_scheme(self) -> str:
        """Scheme of convolutions that nobody names."""
        return PLAIN if self.bits == PLAIN else self.convs

    @property
    def has_exact_steps(self) -> bool:
        """Whether some steps are computed with the weights as they were."""
        return self.exact_first + self.exact_last > 0

    def is_exact(self, step: int, num_steps: int) -> bool:
        """Whether a step is computed with the weights as they were."""
        return step < self.exact_first or step >= num_steps - self.exact_last

    def of_layer(self, layer: str, what: str) -> torch.Tensor | None:
        """What is stored of a layer, if it is."""
        return self.stored.get(f"{layer}.{what}")

    def to_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = {"type": self.type_name, "version": self.version, "bits": self.bits}
        data |= {
            "convs": self.convs,
            "modulation": self.modulation,
            "layers": dict(self.layers),
            "backend": self.backend,
        }
        if self.components:  # what is not used is not named
            data["components"] = dict(self.components)
        return data | {
            "exact_first": self.exact_first,
            "exact_last": self.exact_last,
            "originals": self.originals,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self.stored)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> "QuantizeConfig":
        cls.check_keys(data)
        if "stored" in data:
            raise ConfigError(f"'{NAME}': 'stored' is no text; tensors lie beside the plan")
        return cls(**data, stored=dict(tensors))


def scheme_of(text: str) -> QuantScheme | None:
    """The scheme of a text; ``None`` of ``"plain"``.

    Raises:
        ConfigError: It is no scheme.
    """
    return None if text == PLAIN else QuantScheme.parse(text)
