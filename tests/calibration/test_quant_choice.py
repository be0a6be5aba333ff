"""What choices of widths take and keep: budgets of memory, a distance, and what is left plain."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_pipeline
from torch import nn

from dit_accel import QuantizeConfig, accelerated
from dit_accel.calibration import quant_search
from dit_accel.calibration.quant_allocate import Option
from dit_accel.calibration.quant_choose import choose
from dit_accel.calibration.quant_decoupled import content_scores
from dit_accel.calibration.quant_fit import LayerFit
from dit_accel.calibration.quant_flat import Affine
from dit_accel.calibration.quant_search import Search
from dit_accel.calibration.quantise import quantise
from dit_accel.errors import ConfigError
from dit_accel.families.targets import find_targets
from dit_accel.passes.quantize.affine import factors
from dit_accel.passes.quantize.apply import quantised_of
from dit_accel.passes.quantize.roles import Found
from dit_accel.passes.quantize.scheme import PLAIN, QuantScheme
from dit_accel.passes.quantize.weights import quantise_weight
from dit_accel.pipelines.generation import GenerationSettings
from dit_accel.session.session import session_of


def search_of(pipe: Any, base: QuantizeConfig) -> Search:
    return Search(
        pipe=pipe,
        targets=find_targets(pipe),
        settings=GenerationSettings(),
        base=base,
        how="gram",
        tell=lambda what, done, total: None,
    )


def fitted(layer: nn.Module, text: str) -> LayerFit:
    """With all that may be stored of a layer."""
    assert isinstance(layer, nn.Linear)
    scheme = QuantScheme.parse(text)
    sides = [torch.eye(size) for size in factors(layer.in_features)] if scheme.flat else None
    return LayerFit(
        scheme=scheme,
        alpha=None,
        weight=quantise_weight(layer.weight, scheme),
        inverse_smooth=torch.ones(layer.in_features),
        affine=None if sides is None else Affine(*sides),
        act_scale=torch.ones(4) if scheme.is_static else None,
        gain=None,
        bias=torch.zeros(layer.out_features),
        errors={},
    )


@pytest.mark.parametrize("more", [{}, {"exact_first": 1}])
@pytest.mark.parametrize(("name", "convs"), [("pixart", "w8a8"), ("sd", "w8a8"), ("sd", "w4a8-aasym")])
def test_memory_is_what_is_taken_when_it_is_applied(name: str, convs: str, more: dict[str, int]) -> None:
    pipe = tiny_pipeline(name)
    search = search_of(pipe, QuantizeConfig(bits="w4a8", convs=convs, backend="reference", **more))
    texts = ("w4a8", "w8a8-wasym-aasym", "w8a8-bins", "w4a8-flat", PLAIN)
    chosen = {layer: texts[number % len(texts)] for number, layer in enumerate(search.layers)}
    for layer, width in chosen.items():
        if width != PLAIN:
            search.fits[layer, width] = fitted(search.layers[layer].layer, width)
    with accelerated(pipe, [search.config(chosen)]):
        session = session_of(pipe)
        assert session is not None
        quantised = quantised_of(session.runtimes[0])
        taken = quantised.bytes_now() / quantised.bytes_before
    assert search.memory(chosen) == pytest.approx(taken, rel=1e-12)


def test_layers_in_full_are_no_plain_run_while_others_are_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn(Search):
        def draw(self, samples: Any) -> torch.Tensor:
            return torch.ones(1) if session_of(self.pipe) else torch.zeros(1)

    monkeypatch.setattr(
        quant_search, "differences", lambda drawn, plain, perceptual: {"lpips": [float(drawn - plain)]}
    )
    pipe = tiny_pipeline("sd")
    for convs, modulation, wanted in (("w8a8", PLAIN, 1.0), (PLAIN, "w8a16", 1.0), (PLAIN, PLAIN, 0.0)):
        base = search_of(pipe, QuantizeConfig(convs=convs, modulation=modulation))
        fields = ("pipe", "targets", "settings", "base", "how", "tell")
        search = Drawn(**{name: getattr(base, name) for name in fields})
        search.job = SimpleNamespace(judged=dict, keep_judged=lambda judged: None)  # type: ignore[assignment]
        assert search.judge(dict.fromkeys(search.layers, PLAIN)) == {"lpips": wanted}


class Searching:
    """Ten layers of the same size, and a distance that each of them in few bits adds to."""

    def __init__(self, apart: float = 0.0, quickest: float = 0.0) -> None:
        self.base = QuantizeConfig(bits="w4a8")
        self.apart, self.quickest = apart, quickest

    def options(self) -> list[Option]:
        return [
            Option(layer=str(number), scheme=scheme, nbytes=nbytes)
            for number in range(10)
            for scheme, nbytes in (("w4a8", 25), (PLAIN, 100))
        ]

    def share(self, chosen: dict[str, str]) -> float:
        return sum(100 if width == PLAIN else 25 for width in chosen.values()) / 1000

    def within(self, memory: float) -> dict[str, str]:
        plain = int((memory * 1000 - 250) / 75 + 1e-9)
        if plain < self.quickest:
            raise ConfigError("no choice of widths is within the budget")
        return {str(number): PLAIN if number < plain else "w4a8" for number in range(10)}

    def distance(self, chosen: dict[str, str]) -> float:
        return self.apart + 0.01 * sum(width != PLAIN for width in chosen.values())


def test_a_distance_that_nothing_keeps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no choice of widths keeps a distance of 0.05.*it is 0.2000"):
        choose(Searching(apart=0.2), None, 0.05)
    assert Searching().distance(choose(Searching(), None, 0.05)) <= 0.05
    assert set(choose(Searching(), None, 0.0).values()) == {PLAIN}
    with pytest.raises(ConfigError, match="is the least"):
        choose(Searching(), 0.2, None)


def test_a_budget_is_not_left_by_a_little() -> None:
    search = Searching()
    asked = search.share(search.within(0.63)) - 0.005  # five layers in full are half a hundredth too many
    with pytest.raises(ConfigError, match="Allow either"):
        choose(search, asked, 0.05)
    assert search.share(choose(search, asked + 0.006, 0.05)) <= asked + 0.006


def test_few_bytes_that_take_too_much_time_are_passed_over() -> None:
    found = choose(Searching(quickest=7), None, 0.05)
    assert sum(width == PLAIN for width in found.values()) == 7


def test_memory_and_exact_steps_are_refused_together(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="'memory' cannot be kept"):
        quantise(tiny_pipeline("pixart"), tmp_path, model="tiny", memory=0.5, exact_first=1)


def test_content_scores_are_kept_one_by_one() -> None:
    parent = nn.Module()
    parent.ff = nn.Linear(16, 16)
    name = "m.0.ff.net"
    layers = {name: Found("0.ff.net", parent, "ff", parent.ff, "block")}
    fits = {(name, width): fitted(parent.ff, width) for width in ("w4a8", "w8a8")}
    kept: list[dict[Any, float]] = []
    draw = lambda: parent.ff(torch.ones(48, 16)).detach().view(1, 3, 16, 16).sigmoid()  # noqa: E731
    whole = content_scores(draw, layers, fits, keep=lambda scores: kept.append(dict(scores)))
    assert [len(each) for each in kept] == [1, 2] and kept[-1] == whole
    assert content_scores(draw, layers, fits, known=replaced(kept[0]))[name, "w4a8"] == 7.0


def replaced(scores: dict[Any, float]) -> dict[Any, float]:
    return dict.fromkeys(scores, 7.0)
