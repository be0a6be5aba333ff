"""Chooses a plan by what it may cost and what it must bring, from what was measured and from nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target
from dit_accel.machine import device_name
from dit_accel.passes.trajectory.config import TrajectoryConfig
from dit_accel.plan.certificate import Certificate
from dit_accel.plan.facts import SPEEDUP, bound_words, metric_facts
from dit_accel.plan.fingerprint import fingerprint
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.session.own_plans import ENVIRONMENT, Folders, OwnPlan, own_plans
from dit_accel.session.presets import BY_RULE_NOTE, shipped_plans
from dit_accel.session.session import check_plan

DISTANCES = ("lpips", "st_lpips")  # the first that a certificate has is what 'max_lpips' limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a plan may cost and must bring.

    Args:
        max_lpips: Largest mean LPIPS to the plain run over the held-out prompts of its certificate; ST-LPIPS where
            LPIPS was not measured. The mean, as in ``dit-accel calibrate``; what nine of ten new prompts keep is said
            beside it.
        min_speedup: Least measured speed-up of whole pipeline calls, on the device that the certificate names.

    Raises:
        ConfigError: A value that no plan could keep.
    """

    max_lpips: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        if self.max_lpips is not None and not self.max_lpips >= 0:
            raise ConfigError(f"'max_lpips' is a distance and must be at least 0, got {self.max_lpips!r}")
        if self.min_speedup is not None and not 1 <= self.min_speedup < float("inf"):
            raise ConfigError(f"'min_speedup' must be a number of at least 1, got {self.min_speedup!r}")

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self.max_lpips is not None or self.min_speedup is not None

    def __str__(self) -> str:
        parts = {"max_lpips": self.max_lpips, "min_speedup": self.min_speedup}
        return ", ".join(f"{name}={value:g}" for name, value in parts.items() if value is not None)

    def admits(self, certificate: Certificate) -> bool:
        """Whether what was measured is within them; a plan that saves memory and no time never is."""
        if certificate.speed.run_ci95[0] <= 1:
            return False
        distance = distance_of(certificate)
        if self.max_lpips is not None and (distance is None or distance[1] > self.max_lpips):
            return False
        return self.min_speedup is None or certificate.speed.run_ratio >= self.min_speedup


def choose_plan(
    limits: Limits, targets: tuple[Target, ...], *, model: str = "MODEL", plans: Folders | None = None
) -> AccelerationPlan:
    """Of the certified plans for these models, those that ship and one's own, the fastest within ``max_lpips``.

    With ``min_speedup`` alone the one with the highest mean PSNR; and where there is no plan for a model at all, the
    one that theory gives, which says that nothing was measured. A plan that is not certified, or whose certificate is
    of other weights, is never chosen; nor is one of few bits that was timed on another kind of device, since how much
    time that saves hangs on the units that multiply small integers.

    Args:
        limits: At least one.
        targets: The denoisers of the pipeline.
        model: What the pipeline was loaded from, for the commands in an error.
        plans: Folders with plans of one's own; ``None``: those that the environment names, see :mod:`.own_plans`.

    Raises:
        ConfigError: No plan is within the limits, with what is; or none is certified, with the command to do it; or a
            folder is not there.
    """
    wanted = tuple(fingerprint(target) for target in targets)
    shipped = [plan for plan in shipped_plans() if plan.fingerprints == wanted]
    own = [each for each in own_plans(plans) if each.plan.fingerprints == wanted]
    measured = [
        (plan, plan.certificate)
        for plan in (*shipped, *(each.plan for each in own))
        if plan.certificate is not None
        and not check_plan(plan, targets)
        and _tells_of_here(plan, plan.certificate, targets[0])
    ]
    if not measured:
        if not shipped and not own and limits.max_lpips is None and limits.min_speedup is not None:
            return theory_plan(limits.min_speedup, targets, model=model)
        raise ConfigError(_nothing_certified(limits, shipped, own, model))
    within = [(plan, certificate) for plan, certificate in measured if limits.admits(certificate)]
    if not within:
        known = sorted((certificate for _, certificate in measured), key=lambda each: each.speed.run_ratio)
        raise ConfigError(
            f"no certified plan of this model is within {limits}. Certified are {'; '.join(map(_words, known))}."
        )

    def merit(pair: tuple[AccelerationPlan, Certificate]) -> float:
        certificate = pair[1]
        return certificate.fidelity["psnr_db"].mean if limits.max_lpips is None else certificate.speed.run_ratio

    return max(within, key=merit)[0]


def _tells_of_here(plan: AccelerationPlan, certificate: Certificate, target: Target) -> bool:
    """Whether the certificate's speed says something of this device."""
    if not any(config.is_timed_by_device for config in plan.passes):
        return True
    return certificate.speed.device_name == device_name(next(target.denoiser.parameters()).device)


def theory_plan(speedup: float, targets: Sequence[Target], *, model: str = "MODEL") -> AccelerationPlan:
    """The plan that theory gives for any model: so many fewer denoiser evaluations, and nothing known of the cost."""
    return AccelerationPlan(
        name=f"theory-{speedup:g}x",
        passes=(TrajectoryConfig(speedup=float(speedup)),),
        fingerprints=tuple(fingerprint(target) for target in targets),
        notes=(
            f"{BY_RULE_NOTE}, and {speedup:g}x counts denoiser evaluations, not time; certify it: "
            f"dit-accel certify {model} --speedup {speedup:g}",
        ),
    )


def distance_of(certificate: Certificate) -> tuple[str, float] | None:
    """The name and the mean of the perceptual distance that ``max_lpips`` limits; ``None``: none was measured."""
    for name in DISTANCES:
        if name in certificate.fidelity:
            return name, certificate.fidelity[name].mean
    return None


def _words(certificate: Certificate) -> str:
    """``2.47x on AMD EPYC at ST-LPIPS 0.0003, 9 of 10 new prompts below ST-LPIPS 0.001``."""
    words = f"{SPEEDUP.number(certificate.speed.run_ratio)} on {certificate.speed.device_name}"
    distance = distance_of(certificate)
    if distance is None:
        return f"{words} (no LPIPS was measured)"
    name, mean = distance
    bound = certificate.fidelity[name].bound
    promise = "" if bound is None else f", {bound.share} new prompts {bound_words(metric_facts(name), bound)}"
    return f"{words} at {metric_facts(name).label} {mean:.4f}{promise}"


def _nothing_certified(limits: Limits, shipped: Sequence[AccelerationPlan], own: Sequence[OwnPlan], model: str) -> str:
    if own:
        return (
            f"{limits} needs a certified plan. There are {len(own)} of your own for this model, and none of them, nor "
            f"of {len(shipped)} that ship, is certified for these weights. Measure one: dit-accel certify {model} "
            f"--plan {own[0].folder}"
        )
    if shipped:
        names = ", ".join(f"'{plan.name}'" for plan in shipped)
        return (
            f"{limits} needs a certified plan, and of those that ship for this model ({names}) none is certified for "
            f"these weights. Measure one: dit-accel certify {model} --preset {shipped[0].name}"
        )
    return (
        f"{limits} needs a certified plan, and none ships for this model. Find one: dit-accel calibrate {model} "
        f"--max-lpips {limits.max_lpips:g}, then certify it as that command says, and give its folder as the plan, or "
        f"the folder with all of yours as 'plans' or in the variable {ENVIRONMENT}"
    )
