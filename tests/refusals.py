"""What a refusal must be: one clear error, and a pipeline that is as it was."""

from collections.abc import Callable
from typing import Any

import pytest
from tiny import tiny_call, tiny_pipeline

from dit_accel import accelerate_pipeline, is_accelerated
from dit_accel.errors import DitAccelError


def _state(pipe: Any) -> dict[str, dict[str, Any]]:
    parts = {"pipe": pipe, "scheduler": pipe.scheduler}
    parts |= {f"transformer.{name}": module for name, module in pipe.transformer.named_modules()}
    return {name: dict(vars(part)) for name, part in parts.items()}


def _is_same(one: Any, other: Any) -> bool:
    # A plan that could not be replaced after all may be put back with new wrappers.
    return one is other or (type(one) is type(other) and type(one).__module__.startswith("dit_accel"))


def refused(plan: Any, error: type[Exception], *words: str, **more: Any) -> None:
    """The error names everything in ``words``, and neither a plain nor an accelerated pipeline is changed."""
    plain, fast = tiny_pipeline("pixart"), accelerate_pipeline(tiny_pipeline("pixart"), "lossless")
    for pipe in (plain, fast):
        before = _state(pipe)
        with pytest.raises(error) as caught:
            accelerate_pipeline(pipe, plan() if isinstance(plan, Callable) else plan, **more)  # type: ignore[arg-type]
        assert isinstance(caught.value, DitAccelError)
        for word in words:
            assert word in str(caught.value), str(caught.value)
        after = _state(pipe)
        assert before.keys() == after.keys()
        for name, attributes in before.items():
            assert attributes.keys() == after[name].keys(), name
            assert all(_is_same(after[name][key], value) for key, value in attributes.items()), name
    assert not is_accelerated(plain)
    assert is_accelerated(fast)
    fast(**tiny_call("pixart"))
