"""The page of pipelines: a table of every class, made of the report and of nothing else."""

from collections.abc import Mapping
from typing import Any

_MEANING = {
    "works": "every preset runs, `lossless` is bit-equal, the others skip work, undo is exact",
    "idle": "runs and undoes exactly, but a faster preset found nothing to skip",
    "refused": "one sentence says why and what to do; the pipeline is left as it was",
    "wrong": "an output or the undo is not as promised",
    "crashed": "an error of ours",
    "not set up": "the tiny pipeline of diffusers' tests could not be built here",
}
_HEAD = """\
# Any diffusers pipeline

Made by `python benchmarks/breadth page` from `benchmarks/results/breadth.json`; do not edit it by hand.

For every pipeline class that diffusers' own tests build a tiny one of, `lossless`, `balanced` and `fast` are applied,
run and undone, on random weights: this says that acceleration *works* there, not what it costs in quality, which only
a certificate says. A call has {steps} steps where its test does not fix them. {deterministic}

With diffusers {diffusers}, torch {torch} and transformers {transformers},
**{works} of {total} pipeline classes work**: {described} with families that are described and proven alone,
{discovered} with a denoiser that was discovered.

| result | classes | meaning |
|---|---:|---|
{counts}

*Family* says how the denoiser is known: by a name when it is described and proven, *discovered* when its blocks were
found by themselves and checked at the first call. The last two columns are the share of the scheduled modules' calls
that was not computed; a dash where nothing was.

| pipeline | denoiser | family | result | `balanced` skips | `fast` skips |
|---|---|---|---|---:|---:|
{rows}
"""


_STEADY = "Two plain runs\nof each of them are bit-equal."
_SHAKY = """Where two plain
runs differ already, bit-equality is not asked for, and the table says so."""


def page_text(report: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        report: What ``python benchmarks/breadth run`` wrote.
    """
    pipelines = report["pipelines"]
    packages = report["environment"]["packages"]
    counts = report["counts"]
    text = _HEAD.format(
        steps=report["steps"],
        diffusers=packages["diffusers"],
        torch=packages["torch"],
        transformers=packages["transformers"],
        works=counts.get("works", 0),
        total=len(pipelines),
        described=sum(each["status"] == "works" and not _is_discovered(each) for each in pipelines),
        discovered=sum(each["status"] == "works" and _is_discovered(each) for each in pipelines),
        deterministic=_SHAKY if any(each["deterministic"] is False for each in pipelines) else _STEADY,
        counts="\n".join(f"| {kind} | {counts[kind]} | {said} |" for kind, said in _MEANING.items() if kind in counts),
        rows="\n".join(_row(each) for each in pipelines),
    )
    return text + _section("Refused, and what to do", _reasons(pipelines, "refused")) + _others(pipelines)


def _is_discovered(each: Mapping[str, Any]) -> bool:
    return any(family.startswith("discovered:") for _, _, family in each["denoisers"])


def _row(each: Mapping[str, Any]) -> str:
    denoisers = each["denoisers"]
    models = ", ".join(dict.fromkeys(model for _, model, _ in denoisers)) or "-"
    families = ", ".join(dict.fromkeys(_family(family) for _, _, family in denoisers)) or "-"
    state = each["status"] + (", not deterministic by itself" if each["deterministic"] is False else "")
    skips = [_skipped(each["presets"].get(name)) for name in ("balanced", "fast")]
    return f"| {each['pipeline']} | {models} | {families} | {state} | {' | '.join(skips)} |"


def _family(name: str) -> str:
    return "discovered" if name.startswith("discovered:") else name or "none"


def _skipped(preset: Mapping[str, Any] | None) -> str:
    if preset is None or not preset["planned"] or not preset["saved"]:
        return "-"
    return f"{100 * preset['saved'] / preset['planned']:.0f} %"


def _reasons(pipelines: list[Mapping[str, Any]], status: str) -> list[str]:
    return [f"- **{each['pipeline']}**: {each['reason']}" for each in pipelines if each["status"] == status]


def _others(pipelines: list[Mapping[str, Any]]) -> str:
    parts = [
        _section("Nothing to skip", _reasons(pipelines, "idle")),
        _section("Wrong", _reasons(pipelines, "wrong")),
        _section("Crashed", _reasons(pipelines, "crashed")),
        _section("Not set up", _reasons(pipelines, "not set up")),
        _section("What the library said while they ran", _heard(pipelines)),
    ]
    return "".join(parts)


def _heard(pipelines: list[Mapping[str, Any]]) -> list[str]:
    """Warnings of what works, each once, with the pipelines that heard it."""
    heard: dict[str, list[str]] = {}
    for each in pipelines:
        if each["status"] == "works":
            for warning in dict.fromkeys(w for preset in each["presets"].values() for w in preset["warnings"]):
                heard.setdefault(warning, []).append(each["pipeline"])
    return [f"- {', '.join(names)}: {warning}" for warning, names in sorted(heard.items(), key=lambda item: item[1])]


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"\n## {title}\n", *lines, ""]) if lines else ""
