"""Run a distilled student: its low-rank update is folded into the weights, and the scheduler steps as it was trained.

The update travels in the plan, so a plan with a student in it needs no other file. Folding costs nothing at run time
and leaves every layer a plain one, so caches, quantisation and compile see what they would see without it; the old
weights are kept by the ledger and put back as they were. For adapters that should stay apart use
``load_lora_weights``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target
from dit_accel.passes.base import Pass, register_pass
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Effect, Run
from dit_accel.runtime.denoiser import DenoiserRuntime

NAME = "distilled"
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)
LORA_FILE, FACTS_FILE = "pytorch_lora_weights.safetensors", "student.json"
# What was folded into which denoiser, for the effect to look whether it is still there.
_FOLDED: WeakKeyDictionary[DenoiserRuntime, list[nn.Parameter]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DistilledConfig(PassConfig):
    """A student of the pipeline's model.

    Args:
        method: How it was distilled.
        steps: Numbers of steps that it was trained for; empty: any.
        guidance_scale: Of the teacher, folded into the student; a pipeline that takes one is to be called with it.
        scale: Strength of the update; 1 is the student, 0 the teacher.
        scheduler: Class of the scheduler it is to be run with, and settings that differ from the pipeline's own;
            ``{}`` leaves the scheduler alone.
        weights: Low-rank factors by name: ``LAYER.lora_A.weight`` [r, in] and ``LAYER.lora_B.weight`` [out, r].

    Raises:
        ConfigError: The parts do not fit each other.
    """

    type_name: ClassVar[str] = NAME

    method: str = "unknown"
    steps: tuple[int, ...] = ()
    guidance_scale: float | None = None
    scale: float = 1.0
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if not all(isinstance(step, int) and step > 0 for step in self.steps):
            raise ConfigError(f"'{NAME}': steps must be positive whole numbers, got {list(self.steps)}")
        if not isinstance(self.scale, int | float) or not 0 <= self.scale <= 2:
            raise ConfigError(f"'{NAME}': scale must lie in [0, 2], got {self.scale!r}")
        name = self.scheduler.get("_class_name")
        if self.scheduler and name not in SCHEDULERS:
            raise ConfigError(f"'{NAME}': the scheduler must be one of {', '.join(SCHEDULERS)}, got {name!r}")
        for layer, (down, up) in self.factors().items():
            if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
                raise ConfigError(
                    f"'{NAME}': factors of '{layer}' do not fit: {list(down.shape)} and {list(up.shape)}"
                )

    def factors(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The two factors of each layer.

        Raises:
            ConfigError: A name is none of a factor, or one of a pair is missing.
        """
        layers = dict.fromkeys(key.removesuffix(DOWN).removesuffix(UP) for key in self.weights)
        wanted = {layer + end for layer in layers for end in (DOWN, UP)}
        if wanted != set(self.weights):
            odd = sorted(wanted ^ set(self.weights))[0]
            raise ConfigError(f"'{NAME}': weights must come in pairs NAME{DOWN}, NAME{UP}; '{odd}' has no fellow")
        return {layer: (self.weights[layer + DOWN], self.weights[layer + UP]) for layer in layers}

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type_name,
            "version": self.version,
            "method": self.method,
            "steps": list(self.steps),
            "guidance_scale": self.guidance_scale,
            "scale": self.scale,
            "scheduler": dict(self.scheduler),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self.weights)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> "DistilledConfig":
        cls.check_keys(data)
        return cls(**{**data, "weights": dict(tensors)})

    @classmethod
    def from_student(cls, folder: str | Path) -> "DistilledConfig":
        """Read what ``dit-accel distill`` wrote.

        Args:
            folder: With the adapter and ``student.json``.

        Raises:
            ConfigError: It holds no student.
        """
        import json

        from safetensors.torch import load_file

        folder = Path(folder)
        for name in (LORA_FILE, FACTS_FILE):
            if not (folder / name).is_file():
                raise ConfigError(f"'{folder}' holds no distilled student: it has no {name}")
        facts = json.loads((folder / FACTS_FILE).read_text())
        loaded = load_file(folder / LORA_FILE)
        weights = {key.split(".", 1)[1]: tensor for key, tensor in loaded.items() if key.endswith((DOWN, UP))}
        known = ("method", "steps", "guidance_scale", "scheduler")
        return cls(weights=weights, **{name: facts[name] for name in known if name in facts})


def apply_distilled(runtime: DenoiserRuntime, config: DistilledConfig) -> None:
    """Fold the update into one denoiser's weights and set the scheduler.

    Raises:
        ConfigError: Another pass of the plan has replaced a layer before (quantisation).
    """
    layers = dict(runtime.target.denoiser.named_modules())
    for name, (down, up) in config.factors().items():
        layer: Any = layers[_plain(name, layers)]
        weight = getattr(layer, "weight", None)
        if type(weight) is not nn.Parameter:
            raise ConfigError(f"'{NAME}' found '{name}' replaced by another pass: name it before that one in the plan")
        update = config.scale * (up.to(weight.device).float() @ down.to(weight.device).float())
        folded = nn.Parameter((weight.data.float() + update).to(weight.dtype), requires_grad=weight.requires_grad)
        runtime.ledger.set(layer, "weight", folded, by=NAME)
        _FOLDED.setdefault(runtime, []).append(folded)
    _set_scheduler(runtime, config)
    runtime.each_run(lambda run: _check_run(runtime, config, run), by=NAME)


def _set_scheduler(runtime: DenoiserRuntime, config: DistilledConfig) -> None:
    if not config.scheduler:
        return
    import diffusers

    from dit_accel.passes.distilled_scheduler import FlowMatchEulerDiscreteScheduler, generator_of

    owner = runtime.clock.owner
    own = owner.scheduler
    settings = {key: value for key, value in config.scheduler.items() if key != "_class_name"}
    base = dict(own.config) if isinstance(own, diffusers.FlowMatchEulerDiscreteScheduler) else {}
    # As keywords: from_config passes over what the base has by default, also where it is given another value.
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(base, **settings)
    if hasattr(owner, "components"):
        _keep_config(runtime, owner)
        runtime.ledger.set(owner, "scheduler", scheduler, by=NAME)
        if settings.get("stochastic_sampling"):

            def hand_over(run: Run) -> None:
                scheduler.noise_generator = generator_of(owner)

            runtime.each_run(hand_over, by=NAME)
    else:
        runtime.warn(
            f"the student wants {config.scheduler}, and a bare denoiser's scheduler is not ours to replace: give "
            "accelerate_pipeline one with these settings"
        )


def _keep_config(runtime: DenoiserRuntime, pipe: Any) -> None:
    """A pipeline writes its parts into its config when one is set: undone last, so recorded first."""
    config = pipe._internal_dict
    runtime.ledger.on_undo(lambda: object.__setattr__(pipe, "_internal_dict", config), by=NAME)


def _check_run(runtime: DenoiserRuntime, config: DistilledConfig, run: Run) -> None:
    if config.steps and run.num_steps not in config.steps:
        known = ", ".join(str(step) for step in config.steps)
        runtime.warn(f"the student was distilled for {known} steps, and this run has {run.num_steps}")
    found = run.conditions.guidance_scale
    if config.guidance_scale is not None and found is not None and found != config.guidance_scale:
        runtime.warn(
            f"the student has guidance {config.guidance_scale:g} inside, and this run asks for {found:g}: call the "
            f"pipeline with guidance_scale={config.guidance_scale:g}"
        )


def effect_of_distilled(runtime: DenoiserRuntime, config: DistilledConfig) -> Effect:
    """Share of the denoiser's weights that are the student's: planned, and found on the live model."""
    denoiser = runtime.target.denoiser
    layers = dict(denoiser.named_modules())
    sizes = {name: up.shape[0] * down.shape[1] for name, (down, up) in config.factors().items()}
    total = max(1, sum(parameter.numel() for parameter in denoiser.parameters()), sum(sizes.values()))
    ours = {id(weight) for weight in _FOLDED.get(runtime, ())}
    planned = found = 0
    for name, size in sizes.items():
        weight = getattr(layers.get(_plain(name, layers)), "weight", None)
        planned += size
        # A layer without a weight is a later pass's, made of the student's: quantisation comes after folding.
        found += size if weight is None or id(weight) in ours else 0
    return Effect(
        what="weights replaced by the student's", planned_frac=planned / total, actual_frac=found / total, total=total
    )


def _plain(name: str, layers: Mapping[str, nn.Module]) -> str:
    """The layer's own name: a layer with adapters of the user's has its weight one floor below."""
    below = f"{name}.base_layer"
    return below if below in layers else name


def _obstacles(target: Target, config: DistilledConfig) -> list[str]:
    layers = dict(target.denoiser.named_modules())
    faults = []
    for name, (down, up) in config.factors().items():
        layer = layers.get(_plain(name, layers))
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, torch.Tensor):
            faults.append(f"it has no layer '{name}'")
        elif type(weight) is not nn.Parameter or weight.device.type == "meta":
            faults.append(
                f"the weight of '{name}' is quantised or offloaded; apply the student to the plain model first"
            )
        elif tuple(weight.shape) != (up.shape[0], down.shape[1]):
            faults.append(f"'{name}' is {list(weight.shape)}, the student's {[up.shape[0], down.shape[1]]}")
    more = [f"and {len(faults) - 3} more"] if len(faults) > 3 else []
    return faults[:3] + more


register_pass(
    Pass(
        config=DistilledConfig,
        summary="folds the low-rank update of a distilled student into the weights",
        phase="weights",
        claims=frozenset(("gives the denoiser other weights",)),
        obstacles=_obstacles,
        example=DistilledConfig,
        apply=apply_distilled,
        effect=effect_of_distilled,
    )
)
