"""Puts what a store knows into one report of the common schema; nothing is measured here."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.reports.contest import Absent, Contender
from dit_accel.evaluation.reports.environment import collect_environment
from dit_accel.evaluation.reports.report import DenoiserCost, Fidelity, Report, Speedup, Times, Variant
from dit_accel.evaluation.reports.scores import FidelityScores
from dit_accel.families.pipeline import find_denoisers
from rivals.arena import Arena
from rivals.base import Setting
from rivals.measure import FEWER, PLAIN, Entry, Measurement
from rivals.registry import all_rivals
from rivals.work import Tally, action

KINDS = {PLAIN: "plain", FEWER: "fewer_steps", "dit-accel": "plan"}
FEW_IMAGES = 100
NOT_ASKED_FOR = "this run was told to leave it out"


def assemble(measurement: Measurement, entries: Sequence[Entry], command: Sequence[str]) -> Report:
    """The report of an arena; of contenders without a complete outcome it says why they are absent."""
    arena, store = measurement.arena, measurement.store
    rounds = store.rounds()
    made = store.reference()
    assert made is not None
    variants, absent = [], []
    everyone = [Entry(setting=Setting(name=PLAIN, rival=PLAIN)), *entries]
    for entry in everyone:
        outcome = store.outcome(entry.setting.name)
        timed = rounds and all(entry.setting.name in each for each in rounds)
        if outcome is not None and "absent" in outcome:
            absent.append(Absent(name=entry.setting.name, **outcome["absent"]))
        elif outcome is None or not timed:
            reason = "the time allowed was over"
            absent.append(
                Absent(name=entry.setting.name, rival=entry.setting.rival, status="not measured", reason=reason)
            )
        else:
            variants.append(_variant(arena, entry, outcome, _work(store.outcome(PLAIN)), rounds))
    present = {entry.setting.rival for entry in entries}
    for rival in measurement.rivals:
        outcome = store.outcome(rival.name)
        if rival.name not in present and outcome is not None:
            absent.append(Absent(name=rival.name, **outcome["absent"]))
    asked_for = {rival.name for rival in measurement.rivals}
    absent += [
        Absent(name=rival.name, rival=rival.name, status="not measured", reason=NOT_ASKED_FOR)
        for rival in all_rivals()
        if rival.name not in asked_for
    ]
    return Report(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=tuple(command),
        environment=collect_environment(),
        settings=arena.settings(made, len(rounds)),
        samples=arena.samples,
        variants=tuple(variants),
        notes=_notes(measurement, store.memory),
        absent=tuple(absent),
    )


def _variant(
    arena: Arena,
    entry: Entry,
    outcome: Mapping[str, Any],
    plain: Tally,
    rounds: Sequence[Mapping[str, Sequence[float]]],
) -> Variant:
    name, setting = entry.setting.name, entry.setting
    whole = [each[name][0] for each in rounds]
    inner = [each[name][1] for each in rounds]
    is_plain = name == PLAIN
    done = action(plain, _work(outcome), [module for _, module in find_denoisers(arena.pipe)])
    share = arena.num_timed / len(arena.samples)
    scores = outcome.get("scores")
    return Variant(
        name=name,
        kind=KINDS.get(setting.rival, "rival"),  # type: ignore[arg-type]
        num_inference_steps=setting.num_inference_steps or arena.num_inference_steps,
        times=Times.of(whole),
        speedup=None if is_plain else Speedup.of([each[PLAIN][0] for each in rounds], whole),
        fidelity=None if scores is None else Fidelity.of(FidelityScores(**scores)),
        denoiser=DenoiserCost(
            times=Times.of(inner),
            speedup=None if is_plain else Speedup.of([each[PLAIN][1] for each in rounds], inner),
            macs=round(done.macs * share),
            allowed_speedup=done.plain_macs / max(1, done.macs),
        ),
        contender=None if is_plain else _contender(entry, done),
    )


def _contender(entry: Entry, done: Any) -> Contender:
    setting, rival = entry.setting, entry.rival
    return Contender(
        rival=setting.rival,
        method="the plain pipeline" if rival is None else rival.method,
        made_by="nobody's: fewer steps of the same sampler" if rival is None else rival.made_by,
        advice="" if rival is None else rival.advice,
        advised=setting.advised,
        params={"num_inference_steps": setting.num_inference_steps} if rival is None else dict(setting.params),
        action=done,
        note=setting.note,
    )


def _work(outcome: Mapping[str, Any] | None) -> Tally:
    assert outcome is not None
    calls, macs = outcome["work"]
    return Tally(calls, macs)


def _notes(measurement: Measurement, memory: Mapping[str, Any]) -> tuple[str, ...]:
    arena = measurement.arena
    notes = []
    if not arena.has_pictures:
        notes.append(
            "random weights: times only; threshold-based rivals skip other steps here than on trained weights"
        )
    elif len(arena.samples) < FEW_IMAGES:
        notes.append(f"{len(arena.samples)} samples: enough for a look, too few to rank neighbours")
    if arena.has_pictures and "lpips" not in available_perceptual():
        notes.append("LPIPS was not measured: its weights are not on this machine")
    if measurement.dropped:
        notes.append(f"a quick run: {measurement.dropped} settings of the sweeps were left out")
    if "TeaCache" in memory:
        notes.append(f"TeaCache's polynomial explains {memory['TeaCache']['r2']:.0%} of the variance it was fitted to")
    return tuple(notes)
