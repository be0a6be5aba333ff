"""The methods by name, with settings that converge on the embedded models on one CPU core."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.dmd2 import DMD2, DMD2Config
from dit_accel.training.distill.objectives.ladd import HEADS, LADD, LADDConfig
from dit_accel.training.distill.objectives.lcm import LCM, LCMConfig
from dit_accel.training.distill.objectives.linvideo import LinVideo, LinVideoConfig
from dit_accel.training.distill.objectives.mdt import MDT, MDTConfig
from dit_accel.training.distill.objectives.perflow import PeRFlow, PeRFlowConfig
from dit_accel.training.distill.objectives.sana_sprint import SanaSprint, SanaSprintConfig
from dit_accel.training.distill.objectives.scm import SCM, SCMConfig
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.objectives.sla import SLAFinetune, SLAFinetuneConfig
from dit_accel.training.distill.roles import CRITIC, STUDENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to distil.

    Attributes:
        name: On the command line.
        summary: One line for people.
        roles: That it trains.
        lr: Of the student, at a batch of 16 with adapters.
        make: From the setting and the numbers of steps the student is to run at, its objective.
        lr_of: Learning rates of other turns.
        renoise: How the student is sampled, see ``DistillObjective``.
        folded: Whether guidance goes into the student.
        exact: Whether it calls the network without autocast, for small differences of outputs.
        default_steps: Numbers of steps of the student, where none are asked for.
        check: From the numbers of steps of the student and the teacher's, and the settings: raises a ``ConfigError``
            before anything is solved where they do not go together.
    """

    name: str
    summary: str
    make: Callable[[Setting, Sequence[int], Mapping[str, Any]], DistillObjective]
    roles: tuple[str, ...] = (STUDENT,)
    lr: float = 5e-4
    lr_of: Mapping[str, float] | None = None
    renoise: bool = False
    folded: bool = True
    exact: bool = False
    default_steps: tuple[int, ...] = (1, 2, 4)
    check: Callable[[Sequence[int], int, Mapping[str, Any]], None] = lambda steps, teacher_steps, more: None


def _check_perflow(steps: Sequence[int], teacher_steps: int, more: Mapping[str, Any]) -> None:
    windows = more.get("windows", steps[0])
    if len(steps) > 1 or windows != steps[0]:
        told = f"--steps {','.join(map(str, steps))}" + (f" and windows={windows}" if "windows" in more else "")
        raise ConfigError(
            "a perflow student takes as many steps as it has windows, and is worth little in any other number of "
            f"steps: give one number, such as --steps 4, and train another student for another. Got {told}"
        )
    if teacher_steps % windows:
        fitting = -(-teacher_steps // windows) * windows
        raise ConfigError(
            f"{windows} windows do not divide the teacher's {teacher_steps} steps: give --teacher-steps {fitting}"
        )


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="perflow",
            summary="straightens the flow inside as many windows as the student takes steps",
            make=lambda setting, steps, more: PeRFlow(setting, PeRFlowConfig(**{"windows": steps[0], **more})),
            default_steps=(4,),
            check=_check_perflow,
        ),
        Method(
            name="lcm",
            summary="maps all points of a teacher trajectory to the same data",
            make=lambda setting, steps, more: LCM(setting, LCMConfig(**more)),
            renoise=True,
        ),
        Method(
            name="dmd2",
            summary="matches the distribution of samples, with a critic and simulated runs",
            roles=(STUDENT, CRITIC),
            make=lambda setting, steps, more: DMD2(setting, DMD2Config(**more), steps),
            lr=2e-4,
            lr_of={CRITIC: 4e-4},
            renoise=True,
        ),
        Method(
            name="mdt",
            summary="learns the mean velocity from any time to the data (MDT-dist, VM and VD)",
            make=lambda setting, steps, more: MDT(setting, MDTConfig(**more)),
            lr=3e-4,
            exact=True,
        ),
        Method(
            name="scm",
            summary="continuous-time consistency, after an exact transform to TrigFlow",
            make=lambda setting, steps, more: SCM(setting, SCMConfig(**more)),
            lr=3e-4,
            exact=True,
            renoise=True,
        ),
        Method(
            name="ladd",
            summary="adversarial, with a discriminator on the teacher's own features",
            make=lambda setting, steps, more: LADD(setting, LADDConfig(**more)),
            lr=2e-4,
            lr_of={HEADS: 4e-4},
            renoise=True,
        ),
        Method(
            name="sana-sprint",
            summary="scm and ladd together",
            make=lambda setting, steps, more: SanaSprint(setting, _sprint(more)),
            lr=3e-4,
            exact=True,
            lr_of={HEADS: 4e-4},
            renoise=True,
        ),
    )
}


def _sprint(more: Mapping[str, Any]) -> SanaSprintConfig:
    """Nested settings are given as ``{"scm": {...}, "ladd": {...}}``."""
    parts = {"scm": SCMConfig(**more.get("scm", {})), "ladd": LADDConfig(**more.get("ladd", {}))}
    return SanaSprintConfig(**{**more, **parts})


LINEAR: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="linvideo",
            summary="learns which layers become linear, and matches distributions at any time",
            make=lambda setting, steps, more: LinVideo(setting, LinVideoConfig(**more)),
            lr=2e-4,
            folded=False,
        ),
        Method(
            name="sla",
            summary="sparse attention with a trained linear branch, in every layer",
            make=lambda setting, steps, more: SLAFinetune(setting, SLAFinetuneConfig(**more)),
            lr=2e-4,
            folded=False,
        ),
    )
}
"""Methods that keep the number of steps and change the attention."""


def get_method(name: str) -> Method:
    """Look a method up.

    Raises:
        ConfigError: There is none of that name.
    """
    known = {**METHODS, **LINEAR}
    if name not in known:
        raise ConfigError(f"unknown method '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return known[name]
