"""Teacher, student and critic as roles of one network: LoRA adapters that are switched, or full copies.

With adapters the teacher is the network with all of them disabled, so three roles cost one set of weights. Switching
sets what PEFT's layers act with and leaves ``requires_grad`` alone, unlike PEFT's own ``set_adapter``: it would turn
off the gradients of a student whose loss has been computed and whose backward pass is still to come.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dit_accel.errors import ConfigError, MissingDependencyError

TEACHER, STUDENT, CRITIC = "teacher", "student", "critic"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """Size of the adapters.

    Attributes:
        rank: 0 trains full copies instead.
        alpha: Scale of the update is ``alpha / rank``; ``None``: ``rank``.
        targets: Name ends of linear layers; empty: all of them.
    """

    rank: int = 32
    alpha: int | None = None
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 0 or (self.alpha is not None and self.alpha < 1):
            raise ConfigError(
                f"rank must be 0 (full copies) or more and alpha positive, got {self.rank}, {self.alpha}"
            )


class Roles:
    """The roles of one denoiser.

    Adapters are float32 whatever the type of the weights that they are added to, which only autocast then reconciles.

    Attributes:
        who: The role that acts.

    Args:
        denoiser: The teacher. Its own weights are frozen and never written to.
        trained: Roles that learn, for example ``("student", "critic")``; each starts as the teacher.
        config: Adapters or copies.
        seed: Of the adapters' first weights.

    Raises:
        ConfigError: The teacher has adapters already, no layer is a target, a role is named as the teacher, or copies
            would be trained in half precision.
        MissingDependencyError: Adapters are wanted and PEFT is missing.
    """

    def __init__(self, denoiser: nn.Module, trained: Sequence[str], config: AdapterConfig, seed: int = 0) -> None:
        if TEACHER in trained or len(set(trained)) != len(trained):
            raise ConfigError(f"roles that learn must be different and none is '{TEACHER}', got {list(trained)}")
        self.denoiser, self.trained, self.config = denoiser, tuple(trained), config
        denoiser.requires_grad_(False).eval()
        self.who = TEACHER
        self._copies: dict[str, nn.Module] = {}
        self._layers: list[Any] = []
        if config.rank == 0:
            if (dtype := next(denoiser.parameters()).dtype) != torch.float32:
                raise ConfigError(f"full copies are trained in float32: the teacher is in {dtype}")
            self._copies = {role: copy.deepcopy(denoiser).requires_grad_(True) for role in trained}
            return
        self._layers = _inject(denoiser, self.trained, config, seed)
        self._act(TEACHER)

    @property
    def adapters(self) -> bool:
        """Whether roles are adapters."""
        return self.config.rank > 0

    @contextlib.contextmanager
    def acting(self, role: str) -> Iterator[nn.Module]:
        """The network of a role; whoever acted before does again afterwards, also after an exception.

        Raises:
            ConfigError: No such role.
        """
        if role != TEACHER and role not in self.trained:
            raise ConfigError(f"no role '{role}'; there are {', '.join((TEACHER, *self.trained))}")
        before = self.who
        self._act(role)
        try:
            yield self._copies.get(role, self.denoiser)
        finally:
            self._act(before)

    def networks(self) -> tuple[nn.Module, ...]:
        """The denoiser, and the copies of it where roles are copies."""
        return (self.denoiser, *self._copies.values())

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        """What a role trains, by name; the names of adapters do not contain the role."""
        if not self.adapters:
            return dict(self._copies[role].named_parameters())
        return {
            name.replace(f".{role}.", "."): parameter
            for name, parameter in self.denoiser.named_parameters()
            if "lora_" in name and f".{role}." in name
        }

    @torch.no_grad()
    def load(self, role: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Overwrite what a role trains.

        Raises:
            ConfigError: The weights are of something else.
        """
        own = self.parameters(role)
        if own.keys() != weights.keys():
            odd = sorted(own.keys() ^ weights.keys())
            raise ConfigError(f"weights of '{role}' do not fit: {len(odd)} names differ, e.g. '{odd[0]}'")
        for name, parameter in own.items():
            if parameter.shape != weights[name].shape:
                raise ConfigError(f"'{name}' has shape {tuple(weights[name].shape)}, wanted {tuple(parameter.shape)}")
            parameter.copy_(weights[name])

    def remove(self) -> None:
        """Take the adapters out of the denoiser; it is the teacher again, with its own modules."""
        if self.adapters:
            self.denoiser.unload_lora()  # type: ignore[operator]
        self._layers, self._copies = [], {}

    def _act(self, role: str) -> None:
        self.who = role
        for layer in self._layers:
            layer._disable_adapters = role == TEACHER
            layer._active_adapter = [self.trained[0] if role == TEACHER else role]


def _inject(denoiser: Any, trained: tuple[str, ...], config: AdapterConfig, seed: int) -> list[Any]:
    try:
        from peft import LoraConfig
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError as error:
        raise MissingDependencyError("training adapters needs 'peft': pip install peft") from error
    if any(isinstance(module, BaseTunerLayer) for module in denoiser.modules()):
        raise ConfigError("the teacher has adapters already: fuse or unload them, then distil")
    targets = [
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and (not config.targets or name.endswith(config.targets))
    ]
    if not targets:
        raise ConfigError(f"no linear layer of {type(denoiser).__name__} ends in {', '.join(config.targets)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for role in trained:
            lora = LoraConfig(r=config.rank, lora_alpha=config.alpha or config.rank, target_modules=targets)
            denoiser.add_adapter(lora, adapter_name=role)
    for name, parameter in denoiser.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        else:
            parameter.requires_grad_(False)
    return [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
