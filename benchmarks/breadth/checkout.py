"""The tiny pipelines of diffusers' own tests, found in a checkout of diffusers."""

import importlib
import inspect
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from breadth.standins import offline_stand_ins
from dit_accel.errors import ConfigError

STEPS = 6  # the fastest preset that is tried computes one step in three: it comes to that twice
# What blows a tiny picture up to the size that the released weights were trained at.
_RESIZING = ("use_resolution_binning", "_auto_resize")
_SMALL_AREA = 64 * 64  # of the picture that an edit is conditioned on; the tests' pipelines take a megapixel
_STEP_ARGUMENTS = ("num_inference_steps", "prior_num_inference_steps", "num_inference_steps_per_chunk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A pipeline class, and the test classes that can build a tiny one.

    Attributes:
        name: The pipeline class.
        module: The test module.
        tests: Names of the test classes in it, the first that works is taken.
    """

    name: str
    module: str
    tests: tuple[str, ...]


def open_checkout(root: Path) -> None:
    """Make the tests of a diffusers checkout importable; the installed diffusers stays the one that is tested.

    Raises:
        ConfigError: This is no checkout of diffusers, or what its tests import is not installed.
    """
    if not (root / "tests" / "pipelines" / "test_pipelines_common.py").is_file():
        raise ConfigError(f"'{root.name}' is no checkout of diffusers: it has no tests/pipelines")
    sys.path.insert(0, str(root))
    try:
        importlib.import_module("tests.pipelines.test_pipelines_common")
    except ModuleNotFoundError as error:
        raise ConfigError(f"diffusers' tests need '{error.name}': pip install {error.name}") from error


def find_subjects(root: Path) -> tuple[tuple[Subject, ...], dict[str, str]]:
    """All pipeline classes with a tiny pipeline, by name, and the test modules that cannot be imported, with why."""
    found: dict[str, Subject] = {}
    broken: dict[str, str] = {}
    for file in sorted((root / "tests" / "pipelines").rglob("test_*.py")):
        name = ".".join(file.relative_to(root).with_suffix("").parts)
        try:
            module = importlib.import_module(name)
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
            continue
        for pipeline, tests in _builders(module).items():
            found.setdefault(pipeline, Subject(name=pipeline, module=name, tests=tuple(tests)))
    return tuple(found[name] for name in sorted(found, key=str.lower)), broken


def _builders(module: ModuleType) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in vars(module).items():
        if not isinstance(value, type) or value.__module__ != module.__name__:
            continue
        pipeline = getattr(value, "pipeline_class", None)
        if (
            isinstance(pipeline, type)
            and hasattr(value, "get_dummy_components")
            and hasattr(value, "get_dummy_inputs")
        ):
            found.setdefault(_stock_class(pipeline).__name__, []).append(name)
    return found


def _stock_class(pipeline: type) -> type:
    """The class of diffusers that a test wraps to switch off a guardrail."""
    return next((cls for cls in pipeline.__mro__ if cls.__module__.startswith("diffusers.")), pipeline)


class TinyPipeline:
    """One tiny pipeline and its call.

    Args:
        subject: Which.
        test: One of its test classes.
    """

    def __init__(self, subject: Subject, test: str) -> None:
        cls: Any = getattr(importlib.import_module(subject.module), test)
        self.test = cls()
        self.corpus = Path(inspect.getfile(cls)).read_text(encoding="utf-8")
        self.corpus += inspect.getsource(sys.modules[_stock_class(cls.pipeline_class).__module__])
        with offline_stand_ins(self.corpus):
            self._seed()
            components = self.test.get_dummy_components()
            self.pipe = cls.pipeline_class(**components)
        for component in self.pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval()
        self.pipe.set_progress_bar_config(disable=True)
        self.steps: dict[str, Any] = {}
        _condition_on_small_pictures(type(self.pipe))
        if type(self.pipe).__name__.startswith("HiDream"):  # makes a megapixel of any size
            self.pipe.default_sample_size = 8

    def inputs(self) -> dict[str, Any]:
        """Arguments of one call, made anew: generators are used up by a call."""
        self._seed()
        taken = inspect.signature(type(self.pipe).__call__).parameters
        small: dict[str, Any] = {name: False for name in _RESIZING if name in taken}
        if "num_frames" in taken and taken["num_frames"].default == 16:
            small["num_frames"] = 4
        return {**small, **self._made(self.test.get_dummy_inputs), **self.steps}

    def _made(self, make: Any) -> dict[str, Any]:
        with offline_stand_ins(self.corpus):
            made: dict[str, Any] = make("cpu") if "device" in inspect.signature(make).parameters else make()
        return made

    def lengthen(self) -> None:
        """Ask for :data:`STEPS` steps where the call takes a number of steps."""
        taken = inspect.signature(type(self.pipe).__call__).parameters
        given = self.inputs()
        if given.get("timesteps") is None and given.get("sigmas") is None:
            self.steps = {name: STEPS for name in _STEP_ARGUMENTS if name in taken}
            if "intermediate_timesteps" in taken:
                self.steps["intermediate_timesteps"] = None
            strength = given.get("strength", getattr(taken.get("strength"), "default", None))
            if isinstance(strength, float) and 0 < strength < 1 and "num_inference_steps" in taken:
                self.steps["num_inference_steps"] = math.ceil(STEPS / strength - 1e-6)

    def run(self) -> Any:
        """One call; equal calls give equal outputs, unless the pipeline is not deterministic."""
        with torch.no_grad():
            if hasattr(self.test, "get_dummy_inversion_inputs"):  # LEdits++ edits what it has inverted
                inverted = self._made(self.test.get_dummy_inversion_inputs)
                inverted["image"] = inverted["image"][0]  # LEdits++ XL cannot edit two at a time
                self._seed()
                self.pipe.invert(**inverted)
            given = self.inputs()
            self._seed()
            return self.pipe(**given)

    @staticmethod
    def _seed() -> None:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)


def _condition_on_small_pictures(pipeline: type) -> None:
    """Edits resize their picture to a fixed area, which takes the most of a minute a run; here, to a small one."""
    module: Any = sys.modules[_stock_class(pipeline).__module__]
    resize = getattr(module, "calculate_dimensions", None)
    if resize is not None:
        module.calculate_dimensions = lambda area, ratio: resize(min(area, _SMALL_AREA), ratio)


def set_up(subject: Subject) -> tuple[TinyPipeline, Any]:
    """The first tiny pipeline of a subject that can be built and run, with many steps if that works, and its output.

    Raises:
        Exception: Whatever the last attempt ended in.
    """
    last: Exception | None = None
    for test in subject.tests:
        for lengthened in (True, False):
            try:
                tiny = TinyPipeline(subject, test)
                if lengthened:
                    tiny.lengthen()
                return tiny, tiny.run()
            except Exception as error:
                last = last or error
    assert last is not None
    raise last


def arrays(tree: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Everything numeric in a pipeline's output, in order."""
    if isinstance(tree, torch.Tensor):
        yield tree.detach().float().numpy() if tree.dtype == torch.bfloat16 else tree.detach().numpy()
    elif isinstance(tree, np.ndarray):
        yield tree
    elif hasattr(tree, "convert"):  # a PIL image
        yield np.asarray(tree)
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from arrays(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from arrays(value)
    elif hasattr(tree, "__dict__"):
        for value in vars(tree).values():
            yield from arrays(value)


def same(a: Any, b: Any) -> bool:
    """Whether two outputs are equal in every bit; two NaNs in one place count as equal."""
    left, right = list(arrays(a)), list(arrays(b))
    return len(left) == len(right) > 0 and all(
        x.shape == y.shape and x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        for x, y in zip(left, right, strict=True)
    )
