"""What is applied and what it did, in words."""

from collections.abc import Mapping
from dataclasses import dataclass

from dit_accel.runtime.call import Effect
from dit_accel.runtime.stats import RunStats
from dit_accel.session.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserSummary:
    """One denoiser: what is planned for a run, and what the last run did.

    Attributes:
        name: Attribute of the pipeline that holds it.
        model_class: Its class.
        family: Name of its family.
        num_sites: Modules whose output can be kept.
        num_wrapped: How many of them are wrapped.
        last_run: ``None`` before the first.
        effects: What each pass says that it does, and did in the last run, by the pass's name.
        never_called: Sites that the plan schedules and the last run did not call.
        left_out: Sites that a run has shown cannot be kept, each with the reason.
    """

    name: str
    model_class: str
    family: str
    num_sites: int
    num_wrapped: int
    last_run: RunStats | None
    effects: dict[str, Effect]
    never_called: tuple[str, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What :func:`dit_accel.summary` returns; ``str()`` of it is for people.

    Attributes:
        plan: Its name.
        passes: Their names.
        certified: Whether the plan's certificate is whole, of this plan, and of this model.
        certificate: What it says, a sentence each; empty without one.
        gaps: Where it does not hold: the doubts about this model, and what the last run differed in.
        notes: Of the plan.
        denoisers: What is planned and what was done.
    """

    plan: str
    passes: tuple[str, ...]
    certified: bool
    certificate: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    notes: tuple[str, ...]
    denoisers: tuple[DenoiserSummary, ...]

    def __str__(self) -> str:
        state = "certified" if self.certified else "not certified"
        lines = [f"plan '{self.plan}' ({state}): {', '.join(self.passes) or 'no passes'}"]
        lines += [f"  {sentence}" for sentence in self.certificate]
        lines += [f"  {gap}" for gap in self.gaps]
        lines += [f"  note: {note}" for note in self.notes]
        for denoiser in self.denoisers:
            lines.append(
                f"  {denoiser.name}: {denoiser.model_class} ({denoiser.family}), "
                f"{denoiser.num_wrapped} of {denoiser.num_sites} sites wrapped"
            )
            lines += [f"    {name}: {_effect_words(effect)}" for name, effect in denoiser.effects.items()]
            lines += [f"    {line}" for line in _run_lines(denoiser)]
            lines += [f"    {line}" for line in _left_out_lines(denoiser.left_out)]
        return "\n".join(lines)


def summarize(session: Session) -> Summary:
    """Collect the summary of a session."""
    return Summary(
        plan=session.plan.name,
        passes=tuple(config.type_name for config in session.plan.passes),
        certified=session.certified,
        certificate=session.plan.certificate.words() if session.certified and session.plan.certificate else (),
        gaps=_gaps(session),
        notes=session.plan.notes,
        denoisers=tuple(
            DenoiserSummary(
                name=runtime.name,
                model_class=type(runtime.target.denoiser).__name__,
                family=runtime.target.family.name,
                num_sites=len(runtime.graph),
                num_wrapped=runtime.num_wrapped,
                last_run=runtime.stats if runtime.stats.calls else None,
                effects=runtime.effects(),
                never_called=runtime.never_called if runtime.stats.calls else (),
                left_out=dict(runtime.left_out.reasons),
            )
            for runtime in session.runtimes
        ),
    )


def _gaps(session: Session) -> tuple[str, ...]:
    gaps = list(session.doubts)
    certificate = session.plan.certificate
    if not session.certified or certificate is None:
        return tuple(gaps)
    for runtime in session.runtimes:
        if runtime.stats.calls and runtime.stats.uncovered:
            gaps.append(f"the certificate does not cover the last run: {'; '.join(runtime.stats.uncovered)}")
    gap = certificate.speed_gap(next(session.targets[0].denoiser.parameters())) if session.runtimes else None
    return tuple(dict.fromkeys([*gaps, *([gap] if gap else [])]))


def _effect_words(effect: Effect) -> str:
    if effect.actual_frac is None:
        return f"{effect.what}: {effect.planned_frac:.0%} planned"
    words = f"{effect.what}: {effect.actual_frac:.0%} ({effect.planned_frac:.0%} planned)"
    if effect.kept_bytes:
        words += f", {effect.kept_bytes / 2**20:.2f} MiB kept between steps"
    return words if effect.shortfall is None else f"{words}; {effect.shortfall}"


def _left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """One line for each reason, with the first site that it holds for."""
    sites: dict[str, list[str]] = {}
    for site, reason in left_out.items():
        sites.setdefault(reason, []).append(site)
    return [
        f"left out {first}{f' and {len(more)} more' if more else ''}: {reason}"
        for reason, (first, *more) in sites.items()
    ]


def _run_lines(denoiser: DenoiserSummary) -> list[str]:
    stats = denoiser.last_run
    if stats is None:
        return ["no run yet"]
    answered = f", {stats.answered} answered without the denoiser" if stats.answered else ""
    lines = [f"last run: {stats.calls} calls over {stats.num_steps} evaluations{answered}"]
    if stats.site_calls:
        lines += _site_lines(stats)
    lines += [f"started anew {count} times: {reason}" for reason, count in stats.restarts.items()]
    if stats.planned_reuse and stats.actual_reuse is not None and denoiser.never_called:
        lines.append(f"never called: {', '.join(denoiser.never_called)}")
    return lines


def _site_lines(stats: RunStats) -> list[str]:
    counted = "" if stats.actual_computed is not None else " (compiled: counted by row)"
    computed = stats.planned_computed if stats.actual_computed is None else stats.actual_computed
    reused = stats.planned_reuse if stats.actual_reuse is None else stats.actual_reuse
    return [
        f"computed {computed} of {stats.site_calls} module calls (planned {stats.planned_computed}), "
        f"reused {reused} (planned {stats.planned_reuse}){counted}",
        f"kept values: at most {stats.peak_bytes / 2**20:.2f} MiB",
    ]
