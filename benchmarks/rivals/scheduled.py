"""Rivals that are fixed schedules, run by our own engine: FORA, T-GATE as ECAD has it, DeepCache; and our presets.

The engine reuses raw module outputs, as these methods do; its lossless extra (text projections) is off for them.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from dit_accel import AccelerationPlan, GeneratorSpec, StaticCacheConfig, accelerate_pipeline, remove_acceleration
from dit_accel.families.targets import find_targets
from dit_accel.plan.fingerprint import fingerprint
from dit_accel.plan.plan import PLAN_FILE
from dit_accel.schedules import Schedule
from dit_accel.session.presets import PRESETS
from dit_accel.session.session import session_of
from rivals.base import Rival, Setting, Task


class Scheduled(Rival):
    """Runs what :meth:`schedule` gives."""

    made_by = "our engine, with the method's schedule"

    @abstractmethod
    def schedule(self, pipe: Any, setting: Setting, task: Task) -> Schedule | GeneratorSpec:
        """Which outputs are reused at which step."""

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        schedule = self.schedule(pipe, setting, task)
        accelerate_pipeline(pipe, [StaticCacheConfig(schedule=schedule, invariants=False)])

    def detach(self, pipe: Any) -> None:
        if session_of(pipe) is not None:
            remove_acceleration(pipe)


class Fora(Scheduled):
    """Every n-th step in full; attention and feed-forward outputs kept between."""

    name = "FORA"
    method = "Selvaraju et al., arXiv 2407.01425"
    advice = "N = 3, the default of the authors' code; steps are counted up here, as in ECAD's version"

    def supports(self, pipe: Any) -> str | None:
        return None if kinds_of(pipe) & {"self_attn", "joint_attn"} else "it has no attention whose output can be kept"

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        note = "made for transformers; on a UNet it keeps attention and feed-forward, not convolutions"
        return tuple(
            Setting(
                name=f"FORA N={n}",
                rival=self.name,
                params={"n": n},
                advised=n == 3,
                note=note if "up_block" in kinds_of(pipe) else "",
            )
            for n in (2, 3, 4, 5)
        )

    def schedule(self, pipe: Any, setting: Setting, task: Task) -> GeneratorSpec:
        return GeneratorSpec("every_n", setting.params)


class TGateKeepingGuidance(Scheduled):
    """T-GATE's schedule without its two changes to guidance, as the ECAD paper compares with it."""

    name = "T-GATE, guidance kept"
    method = "Liu et al., arXiv 2404.02747, in the form of ECAD, arXiv 2506.15682"
    advice = "gate m and interval k as T-GATE's, scaled from 25 steps"

    def supports(self, pipe: Any) -> str | None:
        return needs_cross_attention(pipe)

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        chosen = []
        for gate_of_25, interval in ((20, 1), (15, 1), (15, 3), (10, 1), (10, 5)):
            gate = max(2, round(gate_of_25 * task.num_inference_steps / 25))
            params = {"gate": gate, "sp_interval": interval, "fi_interval": 1, "warmup": 2}
            advised = (gate_of_25, interval) == tgate_advice(pipe)
            name = f"T-GATE, guidance kept, m={gate} k={interval}"
            chosen.append(Setting(name=name, rival=self.name, params=params, advised=advised, note=tgate_note(pipe)))
        return tuple(chosen)

    def schedule(self, pipe: Any, setting: Setting, task: Task) -> GeneratorSpec:
        return GeneratorSpec("t_gate", setting.params)


class DeepCache(Scheduled):
    """On cached steps only the outermost path of a UNet runs."""

    name = "DeepCache"
    method = "Ma et al., arXiv 2312.00858"
    advice = "interval 3, branch 0, evenly spaced: the example of the authors' README"

    def supports(self, pipe: Any) -> str | None:
        return None if "up_block" in kinds_of(pipe) else "DeepCache is made for UNets; this is a transformer"

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        sweep: list[dict[str, Any]] = [{"n": n, "branch": branch} for n in (2, 3, 5, 8) for branch in (0, 1)]
        sweep += [{"n": n, "branch": 0, "power": 1.4} for n in (3, 5)]
        return tuple(
            Setting(
                name=f"DeepCache N={each['n']} branch {each['branch']}{', uneven' if 'power' in each else ''}",
                rival=self.name,
                params=each,
                advised=each == {"n": 3, "branch": 0},
            )
            for each in sweep
            if each["branch"] < _last_up_layers(pipe)
        )

    def schedule(self, pipe: Any, setting: Setting, task: Task) -> GeneratorSpec:
        return GeneratorSpec("deepcache", setting.params)


class Ours(Rival):
    """The presets of this project, so that they are measured by the same rule as everyone else.

    Attributes:
        plans: A folder; plans for the model below it, as ``dit-accel calibrate`` saves them, are measured too.
    """

    name = "dit-accel"
    method = "this project"
    made_by = "this project"
    advice = "the preset 'balanced'"
    presets: ClassVar[tuple[str, ...]] = ("lossless", "light", "balanced", "fast", "turbo", "extreme")
    plans: Path | None = None

    def supports(self, pipe: Any) -> str | None:
        return None

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        chosen = [
            Setting(name=f"dit-accel {name}", rival=self.name, params={"plan": name}, advised=name == "balanced")
            for name in self.presets
            if name in PRESETS
        ]
        own = tuple(fingerprint(target) for target in find_targets(pipe))
        for path in sorted(self.plans.rglob(PLAN_FILE)) if self.plans else ():
            plan = AccelerationPlan.from_pretrained(path.parent)
            if plan.fingerprints == own and plan.conditions.num_steps == task.num_inference_steps:
                # Below the folder that was named: a report says nothing of the machine it was made on.
                params = {"folder": path.parent.relative_to(self.plans).as_posix()}
                chosen.append(Setting(name=f"dit-accel {path.parent.name}", rival=self.name, params=params))
        return tuple(chosen)

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        folder = setting.params.get("folder")
        accelerate_pipeline(pipe, setting.params["plan"] if folder is None else (self.plans or Path()) / folder)

    def detach(self, pipe: Any) -> None:
        if session_of(pipe) is not None:
            remove_acceleration(pipe)


def needs_cross_attention(pipe: Any) -> str | None:
    """Why T-GATE cannot act, if so."""
    return None if "cross_attn" in kinds_of(pipe) else "T-GATE keeps cross-attention, and this model has none"


def tgate_advice(pipe: Any) -> tuple[int, int]:
    """Gate of 25 steps and self-attention interval that the authors use: for their UNets, and for PixArt."""
    return (10, 5) if "up_block" in kinds_of(pipe) else (15, 3)


def tgate_note(pipe: Any) -> str:
    """What a reader must know of that advice on this model."""
    known = {"pixart", "unet"} & {target.family.name for target in find_targets(pipe)}
    return "" if known else "the authors give no advice for this kind of model; PixArt's was taken"


def kinds_of(pipe: Any) -> set[str]:
    """Kinds of the modules whose outputs can be kept."""
    return {kind for target in find_targets(pipe) for kind in target.layout.graph.kinds}


def _last_up_layers(pipe: Any) -> int:
    graph = find_targets(pipe)[0].layout.graph
    last = graph.select(kinds=("up_block",))[-1].id
    return len(graph.select(f"{last}.resnets.*", kinds=("resnet",)))
