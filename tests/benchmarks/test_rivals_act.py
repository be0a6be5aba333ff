"""Every rival really acts on every kind of pipeline, or says why it cannot, and leaves nothing behind."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from rivals.base import Rival, Setting, Task
from rivals.cachedit import CacheDit, installed
from rivals.registry import KINDS, all_rivals, select_rivals
from rivals.work import Tally, WorkCounter, action
from tiny_pipelines import tiny_call, tiny_pipeline

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.families.pipeline import find_denoisers

PIPELINES = ("pixart", "sd", "flux", "wan")
STEPS = 8
# Who has nothing to do where; everyone else must act.
ABSENT = {
    "pixart": {"DeepCache"},
    "sd": {"TeaCache", "FirstBlockCache", "MagCache", "cache-dit"},
    "flux": {"T-GATE", "T-GATE, guidance kept", "DeepCache"},
    "wan": {"DeepCache"},
}


@dataclass
class Ground:
    """A tiny pipeline and its plain run."""

    pipe: Any
    name: str
    plain: torch.Tensor
    tally: Tally
    task: Task

    def run(self) -> torch.Tensor:
        result = self.pipe(**tiny_call(self.name, num_inference_steps=STEPS))
        made: torch.Tensor = result.frames if hasattr(result, "frames") else result.images
        return made

    def state(self) -> list[Any]:
        modules = [part for _, root in find_denoisers(self.pipe) for part in root.modules()]
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
        scheduler = [key for key, value in vars(self.pipe.scheduler).items() if callable(value)]
        own = [
            sorted(vars(type(self.pipe))),
            sorted(key for key in vars(self.pipe) if "cache" in key or "_dit" in key),
        ]
        return [[type(m) for m in modules], [sorted(vars(m)) for m in modules], hooks, scheduler, own]


def _ground(name: str) -> Ground:
    diffusers_logging.set_verbosity_error()
    ground = Ground(
        tiny_pipeline(name),
        name,
        torch.empty(0),
        Tally({}, 0),
        Task(num_inference_steps=STEPS, calibrate=lambda: None),
    )
    with WorkCounter([module for _, module in find_denoisers(ground.pipe)]) as work:
        ground.plain = ground.run()
    ground.tally, ground.task.calibrate = work.tally, ground.run
    return ground


@pytest.fixture(scope="module", params=PIPELINES)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A pipeline that all rivals are put on in turn."""
    yield _ground(request.param)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_acts_and_leaves_nothing(ground: Ground, kind: type[Rival]) -> None:
    rival = kind()
    if kind is CacheDit and not installed():
        assert rival.supports(ground.pipe) == "cache-dit is not installed"
        pytest.skip("cache-dit is not installed")
    reason = rival.supports(ground.pipe)
    assert (reason is not None) == (rival.name in ABSENT[ground.name]), reason
    if reason is not None:
        return
    settings = rival.settings(ground.pipe, ground.task)
    assert len({setting.name for setting in settings}) == len(settings)
    assert any(setting.advised for setting in settings)
    before = ground.state()
    rival.prepare(ground.pipe, ground.task)
    assert ground.state() == before, "calibration left something behind"
    for setting in settings[-2:]:  # the boldest
        made, done = _counted(ground, rival, setting)
        assert done.acted, setting.name
        assert torch.isfinite(made).all()
        assert not torch.equal(made, ground.plain) or setting.name == "dit-accel lossless"
        assert ground.state() == before
        assert torch.equal(ground.run(), ground.plain), f"{setting.name} was not removed"


def _counted(ground: Ground, rival: Rival, setting: Setting) -> tuple[torch.Tensor, Any]:
    denoisers = [module for _, module in find_denoisers(ground.pipe)]
    with rival.applied(ground.pipe, setting, ground.task):
        with WorkCounter(denoisers) as work:
            made = ground.run()
        assert torch.equal(ground.run(), made), "a second run sees the first one"
    return made, action(ground.tally, work.tally, denoisers)


def test_names_are_unique_and_can_be_selected() -> None:
    names = [rival.name for rival in all_rivals()]
    assert len(set(names)) == len(names)
    assert [rival.name for rival in select_rivals(["fora", "cache-dit"])] == ["FORA", "cache-dit"]
    with pytest.raises(ConfigError, match="Did you mean 'TeaCache'"):
        select_rivals(["TeeCache"])


def test_a_rival_that_cannot_be_applied_leaves_the_pipeline_as_it_was() -> None:
    ground = _ground("pixart")
    before = ground.state()
    fora = select_rivals(["FORA"])[0]
    with pytest.raises(DitAccelError, match="at least 1"):
        fora.apply(ground.pipe, Setting(name="", rival="", params={"n": 0}), ground.task)
    assert ground.state() == before
    good = fora.settings(ground.pipe, ground.task)[0]
    with fora.applied(ground.pipe, good, ground.task), pytest.raises(RuntimeError, match="already"):
        fora.apply(ground.pipe, good, ground.task)
    assert torch.equal(ground.run(), ground.plain)
