"""Which published techniques ``benchmarks/solvers.py`` measures, and in which settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dit_accel import AccelerationPlan, EncoderPropagationConfig, GeneratorSpec, StaticCacheConfig
from dit_accel.calibration.techniques import technique_plan
from dit_accel.schedules.unet_generators import published_key_steps

if TYPE_CHECKING:
    from solvers import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One technique in one setting.

    Attributes:
        technique: A key of the claims in ``benchmarks/pages/solvers.py``.
        setting: In words.
        plan: Name of a preset, or a function of the trial to a plan or to pass configs.
    """

    technique: str
    setting: str
    plan: "str | Callable[[Trial], Any]"

    @property
    def name(self) -> str:
        """What it is called in the report."""
        return f"{self.technique}: {self.setting}"


def found(name: str, share: float | None = None) -> "Callable[[Trial], AccelerationPlan]":
    """A plan of :func:`technique_plan`; without a share, for as many steps as Faster Diffusion has key steps."""

    def plan(trial: "Trial") -> AccelerationPlan:
        usual = len(published_key_steps(trial.steps)) / trial.steps
        return technique_plan(trial.pipe, name, trial.search, share=share or usual)

    return plan


def cached(name: str, **params: Any) -> "Callable[[Trial], list[Any]]":
    """A generator's schedule, and nothing beside."""
    return lambda trial: [StaticCacheConfig(schedule=GeneratorSpec(name, params), invariants=False)]


def quadratic(trial: "Trial") -> list[Any]:
    """DeepCache's uneven steps: around step 15 of 50, or at that part of another run."""
    params = {"n": 5, "branch": 0, "power": 1.4, "centre": round(0.3 * trial.steps)}
    return [StaticCacheConfig(schedule=GeneratorSpec("deepcache", params), invariants=False)]


CASES = {
    "emoji-sd": (
        Case(technique="deepcache", setting="preset: N = 3, branch 0", plan="deepcache"),
        Case(
            technique="faster_diffusion",
            setting="preset: key steps as published, prior noise",
            plan="faster_diffusion",
        ),
        Case(technique="a_sdm", setting="preset: block level, uniform, N = 2", plan="a_sdm"),
        Case(
            technique="faster_diffusion",
            setting="key steps as published, no prior noise",
            plan=lambda trial: [EncoderPropagationConfig()],
        ),
        Case(
            technique="faster_diffusion",
            setting="as many key steps, found by grouping",
            plan=found("faster_diffusion"),
        ),
        Case(
            technique="deepcache",
            setting="N = 5, quadratic around three tenths of the run",
            plan=quadratic,
        ),
        Case(technique="cachequant", setting="one step in five", plan=found("cachequant", 1 / 5)),
        Case(technique="a_sdm", setting="layer level, uniform, N = 2", plan=cached("inheritance", level="layer")),
        Case(technique="a_sdm", setting="unit level, uniform, N = 2", plan=cached("inheritance", level="unit")),
        Case(
            technique="a_sdm",
            setting="block level, early, N = 2",
            plan=cached("inheritance", level="block", mode="early"),
        ),
    ),
    "emoji-pixart": (
        Case(technique="fora", setting="preset: N = 3", plan="fora"),
        Case(
            technique="faster_diffusion",
            setting="preset: first 18/28 of the blocks, key steps as published, prior noise",
            plan="faster_diffusion",
        ),
        Case(
            technique="faster_diffusion",
            setting="as many key steps, found by grouping",
            plan=found("faster_diffusion"),
        ),
        Case(technique="smoothcache", setting="half of the module calls", plan=found("smoothcache", 1 / 2)),
        Case(technique="smoothcache", setting="a third of the module calls", plan=found("smoothcache", 1 / 3)),
        Case(technique="cachequant", setting="one step in three", plan=found("cachequant", 1 / 3)),
        Case(technique="lemica", setting="one step in three", plan=found("lemica", 1 / 3)),
    ),
}
