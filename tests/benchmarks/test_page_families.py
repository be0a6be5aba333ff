"""The tables of families say what the passes say: can act, cannot, cannot on some."""

import dataclasses

import pytest
from pages.families import Answers, ask_families, ask_family, own_passes
from pages.family_tables import families_block, groups_block, passes_block
from tiny import tiny_model

from dit_accel.doctor.report import doctor_report
from dit_accel.families import resolve_family
from dit_accel.families.targets import Target
from dit_accel.passes.base import Pass, find_pass, obstacles_by_pass


@pytest.fixture(scope="module")
def answers() -> Answers:
    """Of the family of UNets, asked with one pass that can act, one that cannot, and one that cannot on SDXL."""
    group = {}
    for name in ("sd", "sdxl"):
        model = tiny_model(name)
        family = resolve_family(model)
        group[name] = Target(name=name, denoiser=model, family=family, layout=family.bind(model))
    cache, compiler = find_pass("static_cache"), find_pass("compile")
    never = dataclasses.replace(compiler, obstacles=lambda target, config: ["it | never"])
    partly = dataclasses.replace(
        cache, obstacles=lambda target, config: ["two text encoders"] if target.name == "sdxl" else []
    )
    asked = ask_family(group, [never, cache])
    some = ask_family(group, [partly])
    return dataclasses.replace(
        asked, obstacles=asked.obstacles | {"some": some.obstacles[cache.name]}, partly=frozenset(("some",))
    )


def test_what_cannot_act_is_refused_with_its_reason(answers: Answers) -> None:
    block = families_block([answers], ("NewTransformer",))
    (row,) = (line for line in block.splitlines() if line.startswith("| `unet`"))
    assert row.endswith("| no | yes | partly |") and "`UNet2DConditionModel`" in row
    assert "on `unet`: it | never." in block
    assert "- `some` on `unet` (the tiny `sdxl`): two text encoders." in block
    assert block.endswith("not asked for want of a tiny model: `NewTransformer`.")


def test_families_with_the_same_answers_share_a_row(answers: Answers) -> None:
    others = [
        dataclasses.replace(
            answers,
            family=dataclasses.replace(answers.family, name=label),
            obstacles={name: {} for name in answers.obstacles},
            partly=frozenset(),
        )
        for label in ("one", "two")
    ]
    rows = groups_block([answers, *others]).splitlines()[2:]
    assert rows == ["| `one`, `two` | yes | yes | yes |", "| `unet` | no | yes | partly |"]


def test_passes_that_exclude_each_other_say_why() -> None:
    def named(name: str, **fields: object) -> Pass[object]:
        config = type(name, (own_passes()[0].config,), {"type_name": name})
        return dataclasses.replace(own_passes()[0], config=config, **{"claims": frozenset(), **fields})

    claim = frozenset(("moves",))
    passes = [
        named("a", claims=claim),
        named("b", claims=claim, reversible=False),
        named("c", conflicts={"b": "no way"}),
    ]
    rows = [line.split(" | ")[-2:] for line in passes_block(passes).splitlines()[2:]]
    assert rows == [
        ["yes", "`b`: both want to be the one that moves |"],
        ["no", "`a`: both want to be the one that moves; `c`: no way |"],
        ["yes", "`b`: no way |"],
    ]


def test_families_are_asked_what_the_doctor_asks() -> None:
    (denoiser,) = doctor_report(tiny_model("flux"), obstacles_by_pass()).denoisers
    (flux,) = (each for each in ask_families() if each.family.name == "flux")
    assert set(flux.kinds) == set(denoiser.sites)
    for each in own_passes():
        assert list(flux.obstacles[each.name]) == denoiser.obstacles[each.name]
