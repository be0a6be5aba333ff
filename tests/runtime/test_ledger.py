"""The ledger undoes every kind of change, in any order and whoever made it, and refuses what it could not undo."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dit_accel.errors import IrreversibleError
from dit_accel.runtime.ledger import PatchLedger
from dit_accel.runtime.patch import Patch


class Toy(nn.Module):
    """One of everything that a change can be made to."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0
        self.first = nn.Linear(3, 3)
        self.attention = nn.Linear(3, 3)
        self.last = nn.Linear(3, 3)
        self.weight = nn.Parameter(torch.ones(3))
        self.bias = nn.Parameter(torch.zeros(3))
        self.register_parameter("absent", None)
        self.register_buffer("table", torch.arange(3.0))
        self.register_buffer("scratch", torch.ones(3), persistent=False)
        self.register_buffer("rest", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.attention(self.first(x))) * self.scale
        return x * self.weight + self.bias + self.table + self.scratch + self.rest


class Doubled(Patch[Toy]):
    def __call__(self, *args: Any) -> torch.Tensor:
        return 2 * self.original(*args)


# What can be set under which name.
KINDS: dict[str, Any] = {
    "scale": lambda: math.pi,
    "fresh": lambda: object(),
    "attention": lambda: nn.Linear(3, 3),
    "first": lambda: nn.Identity(),
    "new_module": lambda: nn.Identity(),
    "weight": lambda: nn.Parameter(torch.rand(3)),
    "absent": lambda: nn.Parameter(torch.rand(3)),
    "new_parameter": lambda: nn.Parameter(torch.rand(3)),
    "table": lambda: torch.rand(3),
    "scratch": lambda: torch.rand(3),
}
# Of another kind than what was there: torch moves them from one registry to the other.
CROSSED: dict[str, Any] = {
    "last": lambda: nn.Parameter(torch.rand(3)),
    "rest": lambda: nn.Parameter(torch.rand(3)),
}
ALL = {**KINDS, **CROSSED}


def state(toy: Toy) -> Any:
    """Everything of an instance, order and identity included."""
    own = {
        key: list(value.items()) if isinstance(value, dict) else value
        for key, value in vars(toy).items()
        if key not in ("_non_persistent_buffers_set", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
    }
    return own, set(toy._non_persistent_buffers_set), list(toy.state_dict())


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one is other or (not isinstance(one, torch.Tensor | nn.Module) and bool(one == other))


changes = st.lists(
    st.tuples(st.sampled_from([*ALL, "<forward>", "<hook>", "<callback>"]), st.sampled_from(("a", "b"))), max_size=12
)


def make(ledger: PatchLedger, toy: Toy, change: str, by: str, log: list[str]) -> Any:
    if change == "<forward>":
        ledger.set(toy, "forward", Doubled(toy, "forward"), by=by)
    elif change == "<hook>":
        ledger.on_undo(toy.register_forward_hook(lambda *_: None).remove, by=by)
    elif change == "<callback>":
        ledger.on_undo(lambda: log.append(by), by=by)
    else:
        value = ALL[change]()
        ledger.set(toy, change, value, by=by)
        return value
    return None


@settings(max_examples=150, deadline=None)
@given(changes)
def test_everything_is_undone_in_any_order(wanted: list[tuple[str, str]]) -> None:
    toy, ledger, log = Toy(), PatchLedger(), []
    x = torch.rand(2, 3)
    before, output = state(toy), toy(x)
    for change, by in wanted:
        make(ledger, toy, change, by, log)
    ledger.undo()
    assert same(state(toy), before)
    assert torch.equal(toy(x), output)
    assert len(ledger) == 0
    assert log == [by for change, by in reversed(wanted) if change == "<callback>"]


@settings(max_examples=150, deadline=None)
@given(changes, st.sampled_from(("a", "b")))
def test_one_author_never_undoes_another(wanted: list[tuple[str, str]], gone: str) -> None:
    toy, ledger = Toy(), PatchLedger()
    before = state(toy)
    set_last: dict[str, Any] = {}
    for change, by in wanted:
        value = make(ledger, toy, change, by, [])
        if change in ALL and by != gone:
            set_last[change] = value
    ledger.undo(by=gone)
    assert all(getattr(toy, name) is value for name, value in set_last.items())
    others = [change for change, by in wanted if by != gone]
    assert len(toy._forward_hooks) == others.count("<hook>")
    assert toy.forward.__class__ is Doubled if "<forward>" in others else "forward" not in vars(toy)
    ledger.undo()
    assert same(state(toy), before)


def test_undoing_on_one_object_leaves_what_others_did_to_it() -> None:
    """A pass that wraps a site anew must not throw out what another pass changed on the same module."""
    toy, ledger = Toy(), PatchLedger()
    processor = object()
    ledger.set(toy, "processor", processor, by="sparse")
    ledger.set(toy, "forward", Doubled(toy, "forward"), by="runtime")
    ledger.undo_on(toy, by="runtime")
    assert vars(toy)["processor"] is processor and "forward" not in vars(toy)


def test_what_someone_else_has_set_since_is_theirs() -> None:
    toy, ledger = Toy(), PatchLedger()
    ledger.set(toy, "attention", nn.Identity(), by="a")
    theirs = toy.attention = nn.Linear(3, 3)
    ledger.undo()
    assert toy.attention is theirs


def test_an_undo_that_fails_does_not_keep_the_others_from_it() -> None:
    toy, ledger = Toy(), PatchLedger()

    def fail() -> None:
        raise RuntimeError("no")

    ledger.set(toy, "scale", 3.0, by="a")
    ledger.on_undo(fail, by="a")
    ledger.set(toy, "weight", nn.Parameter(torch.rand(3)), by="a")
    with pytest.raises(RuntimeError, match="no"):
        ledger.undo()
    assert toy.scale == 2.0 and toy.weight.tolist() == [1, 1, 1] and len(ledger) == 0


class Rounded:
    """Does not keep what it is given."""

    def __init__(self) -> None:
        self._value = 1

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, value: float) -> None:
        self._value = round(value)


class Slotted:
    __slots__ = ("value",)


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: int = 1


@pytest.mark.parametrize(
    ("owner", "name", "value", "words"),
    [
        pytest.param(Toy, "forward", 1.0, "for everybody", id="class"),
        pytest.param(math, "pi", 3.0, "for everybody", id="python-module"),
        pytest.param(Frozen(), "value", 2, "cannot set 'value' of Frozen", id="frozen"),
        pytest.param(Rounded(), "value", 2.4, "does not keep what it is given", id="property"),
        pytest.param(Toy(), "weight", torch.rand(3), "cannot set 'weight' of Toy", id="tensor-as-parameter"),
        pytest.param(Toy(), "bias", nn.Identity(), "cannot set 'bias' of Toy", id="module-as-parameter"),
    ],
)
def test_what_could_not_be_undone_is_refused_at_once(owner: Any, name: str, value: Any, words: str) -> None:
    ledger = PatchLedger()
    before = getattr(owner, name)
    with pytest.raises(IrreversibleError, match=words):
        ledger.set(owner, name, value, by="a")
    assert getattr(owner, name) is before and len(ledger) == 0


def test_slots_and_properties_are_undone() -> None:
    ledger, slotted, rounded = PatchLedger(), Slotted(), Rounded()
    ledger.set(slotted, "value", 1, by="a")
    ledger.set(rounded, "value", 5, by="a")
    assert (slotted.value, rounded.value) == (1, 5)
    ledger.undo()
    assert not hasattr(slotted, "value") and rounded.value == 1
