"""``doctor --check-family``: right facts pass, wrong ones are named, one a line, and the exit code tells."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import tiny_model

from dit_accel.families import Family, find_family, register_family
from dit_accel.families.catalog import unregister_family


@contextmanager
def registered(**changes: object) -> Iterator[None]:
    """PixArt's family with other facts, in its place."""
    shipped = find_family(tiny_model("pixart"))
    assert shipped is not None
    family = register_family(dataclasses.replace(shipped, **changes))
    try:
        yield
    finally:
        unregister_family(family)


def _stacks(**facts: object) -> tuple[object, ...]:
    family = find_family(tiny_model("pixart"))
    assert isinstance(family, Family)
    (stack,) = family.stacks
    sites = tuple(dataclasses.replace(spec, **facts) if spec.path == "ff" else spec for spec in stack.sites)
    return (dataclasses.replace(stack, sites=sites),)


def test_right_facts(run, tiny_folder: str) -> None:
    result = run("doctor", tiny_folder, "--check-family")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "transformer: nothing wrong" in result.stderr
    assert json.loads(run("doctor", tiny_folder, "--check-family", "--json").stdout) == {"transformer": []}


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"feeds": ("attn1",)}, "is not read by blocks.{block}.attn1, which its `feeds` name"),
        ({"invariant": True}, "is called `invariant`, but sees the latents or the time"),
    ],
    ids=["feeds", "invariant"],
)
def test_wrong_facts(run, tiny_folder: str, facts: dict[str, object], fault: str) -> None:
    wrong = _stacks(**facts)
    with registered(stacks=wrong):
        result = run("doctor", tiny_folder, "--check-family")
        data = run("doctor", tiny_folder, "--check-family", "--json")
    lines = result.stdout.splitlines()
    assert result.exit_code == data.exit_code == 1
    for block in range(3):
        assert f"transformer: blocks.{block}.ff: {fault.format(block=block)}" in lines
    assert [f"transformer: {sentence}" for sentence in json.loads(data.stdout)["transformer"]] == lines


@pytest.mark.parametrize("how", ["no make_inputs", "inputs that do not fit"])
def test_arguments_are_those_of_a_real_call_where_the_family_makes_none(run, tiny_folder: str, how: str) -> None:
    def misfit(model: object, sample: object) -> dict[str, object]:
        return {"hidden_states": None}

    with registered(make_inputs=None if how == "no make_inputs" else misfit):
        result = run("doctor", tiny_folder, "--check-family", "--height", "64", "--width", "96")
    assert result.exit_code == 0, result.stdout
    assert "taking those of one call of the pipeline" in result.stderr
    assert ("make_inputs" if how == "no make_inputs" else "does not run on the arguments") in result.stderr


_OWN_FAMILY = """
import dataclasses
from dit_accel.families import register_family
from dit_accel.families.pixart import PIXART

(stack,) = PIXART.stacks
sites = tuple(dataclasses.replace(s, feeds=("attn2",)) if s.path == "attn1" else s for s in stack.sites)
register_family(dataclasses.replace(PIXART, name="mine", stacks=(dataclasses.replace(stack, sites=sites),)))
"""


def test_a_family_of_ones_own_from_a_file(run, tiny_folder: str) -> None:
    Path("mine.py").write_text(_OWN_FAMILY)
    try:
        result = run("doctor", tiny_folder, "--check-family", "--family-file", "mine.py")
        known = json.loads(run("doctor", tiny_folder, "--json").stdout)["denoisers"][0]["family"]
    finally:
        family = find_family(tiny_model("pixart"))
        assert family is not None
        unregister_family(family)
    assert known == "mine"
    assert result.exit_code == 1
    assert (
        "transformer: blocks.1.attn1: has more readers than its `feeds` (blocks.1.attn2)" in result.stdout.splitlines()
    )
    absent = run("doctor", tiny_folder, "--check-family", "--family-file", "absent.py")
    assert absent.exit_code == 2
    assert "no Python file at 'absent.py'" in absent.stderr
