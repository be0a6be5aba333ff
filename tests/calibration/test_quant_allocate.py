"""Bits for each layer: the program against all choices, and the exchanges against the program."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dit_accel.calibration import quant_gram
from dit_accel.calibration.quant_allocate import Budget, Option, allocate
from dit_accel.calibration.quant_fit import fit_layer
from dit_accel.calibration.quant_gram import Gram, KeptCall, gram_matrix, sketched
from dit_accel.calibration.quant_latency import layer_seconds
from dit_accel.calibration.quant_record import LayerRecord
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.roles import Found
from dit_accel.passes.quantize.scheme import PLAIN, QuantScheme
from dit_accel.passes.quantize.ways import MOST_ROWS

LAYERS = [f"m.{number}" for number in range(8)]
WIDTHS = ("w4a8", "w8a8")


def random_gram(seed: int, rank: int = 12) -> Gram:
    draw = torch.Generator().manual_seed(seed)
    errors = torch.randn(len(LAYERS) * 2, rank, generator=draw, dtype=torch.float64)
    errors[::2] *= 8  # the lower width is the worse one
    places = tuple((layer, width) for layer in LAYERS for width in WIDTHS)
    return Gram(places=places, products=errors @ errors.mT)


def options(seed: int = 0) -> list[Option]:
    sizes = torch.randint(1, 9, (len(LAYERS),), generator=torch.Generator().manual_seed(seed)).tolist()
    return [
        Option(layer=layer, scheme=scheme, nbytes=size * bits, seconds=size * (1.0 if scheme != PLAIN else 2.0))
        for layer, size in zip(LAYERS, sizes, strict=True)
        for scheme, bits in (("w4a8", 4), ("w8a8", 8), (PLAIN, 16))
    ]


def all_choices(known: list[Option]) -> Iterator[dict[str, Option]]:
    for taken in itertools.product(range(3), repeat=len(LAYERS)):
        yield {
            layer: known[3 * number + which] for number, (layer, which) in enumerate(zip(LAYERS, taken, strict=True))
        }


def loss(gram: Gram, chosen: dict[str, str], *, interactions: bool) -> float:
    return gram.loss({layer: width for layer, width in chosen.items() if width != PLAIN}, interactions=interactions)


def cost(known: list[Option], chosen: dict[str, str]) -> float:
    return sum(option.nbytes for option in known if chosen[option.layer] == option.scheme)


@pytest.mark.parametrize("seed", range(3))
def test_the_program_finds_the_best_of_all_choices(seed: int) -> None:
    gram, known = random_gram(seed), options(seed)
    budget = Budget(nbytes=0.5 * sum(option.nbytes for option in known if option.scheme == PLAIN))
    found = allocate(known, gram, budget, interactions=False)
    best = min(
        loss(gram, {layer: option.scheme for layer, option in each.items()}, interactions=False)
        for each in all_choices(known)
        if sum(option.nbytes for option in each.values()) <= budget.nbytes
    )
    assert loss(gram, found, interactions=False) == pytest.approx(best, rel=1e-3)
    assert cost(known, found) <= budget.nbytes


@pytest.mark.parametrize("seed", range(6))
def test_exchanges_lower_the_whole_loss_within_the_budget(seed: int) -> None:
    gram, known = random_gram(seed), options(seed)
    budget = Budget(nbytes=0.45 * sum(option.nbytes for option in known if option.scheme == PLAIN))
    single = allocate(known, gram, budget, interactions=False)
    whole = allocate(known, gram, budget)
    assert cost(known, whole) <= budget.nbytes
    assert loss(gram, whole, interactions=True) <= loss(gram, single, interactions=True)


def test_errors_that_cancel_are_taken_together() -> None:
    """Two layers whose errors are each other's opposite: alone the worst, together nothing."""
    errors = torch.zeros(16, 9, dtype=torch.float64)
    for number in range(8):
        errors[2 * number, number] = 1.0
    errors[0, :], errors[2, :] = 0, 0
    errors[0, 8], errors[2, 8] = 3.0, -3.0
    gram = Gram(places=random_gram(0).places, products=errors @ errors.mT)
    known = [
        Option(layer=layer, scheme=scheme, nbytes=size)
        for layer in LAYERS
        for scheme, size in (("w4a8", 1), ("w8a8", 2))
    ]
    budget = Budget(nbytes=14)
    assert allocate(known, gram, budget, interactions=False)[LAYERS[0]] == "w8a8"
    found = allocate(known, gram, budget)
    assert found[LAYERS[0]] == found[LAYERS[1]] == "w4a8" and loss(gram, found, interactions=True) == 0


def test_time_is_a_budget_too() -> None:
    gram, known = random_gram(0), options()
    least = sum(option.seconds for option in known if option.scheme == "w4a8")
    found = allocate(known, gram, Budget(seconds=least))
    assert PLAIN not in found.values()
    assert set(allocate(known, gram, Budget()).values()) == {PLAIN}


def test_what_nothing_keeps() -> None:
    gram, known = random_gram(0), options()
    with pytest.raises(ConfigError, match="MiB is the least"):
        allocate(known, gram, Budget(nbytes=1.0))


def test_sketches_keep_products() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 20_000, generator=draw)
    b = b + a
    small = sketched(a, 4096), sketched(b, 4096)
    assert float(small[0] @ small[1]) == pytest.approx(float(a @ b), rel=0.05)
    assert torch.equal(sketched(a[:10], 16)[:10], a[:10])


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def test_the_matrix_foretells_the_error_of_both_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = _Two(), torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    layers = {f"m.{name}": Found(name, model, name, getattr(model, name), "block") for name in "ab"}
    fits = {}
    given = {"m.a": x, "m.b": model.a(x).detach()}
    for name, found in layers.items():
        rows = given[name]
        record = LayerRecord(bins=1, peaks=rows.abs().amax(0)[None], moments=rows.mT @ rows / 50, rows=rows)
        fits[name, "w4a8"] = fit_layer(found.layer, record, QuantScheme.parse("w4a8"), by_columns=False)
    output = model(x).detach().reshape(-1)
    call = KeptCall(denoiser="m", args=(x,), kwargs={}, output=output)
    gram = gram_matrix({"m": model}, [call], layers, fits)
    assert type(model.a) is nn.Linear and type(model.b) is nn.Linear
    monkeypatch.setattr(quant_gram, "KEPT_EVERY", 1)
    kept: list[dict[tuple[str, str], torch.Tensor]] = []
    gram_matrix({"m": model}, [call], layers, fits, keep=lambda errors: kept.append(dict(errors)))
    assert [len(each) for each in kept] == [1, 2]
    assert torch.equal(gram_matrix({"m": model}, [call], layers, fits, known=kept[0]).products, gram.products)
    nothing = {place: torch.zeros_like(error) for place, error in kept[1].items()}
    assert not gram_matrix({"m": model}, [call], layers, fits, known=nothing).products.any()  # is not measured again
    both = gram.loss(dict.fromkeys(layers, "w4a8"))
    from dit_accel.calibration.quant_gram import layer_of
    from dit_accel.passes.quantize.ways import Ways

    for name, found in layers.items():
        model._modules[found.name] = layer_of(found, fits[name, "w4a8"], Ways("reference"))
    real = float(((model(x).detach().reshape(-1) - output).norm() / output.norm()) ** 2)
    assert both == pytest.approx(real, rel=0.1)
    assert gram.loss({"m.a": "w4a8"}) < both


def test_seconds_of_layers() -> None:
    model = _Two()
    layers = {f"m.{name}": Found(name, model, name, getattr(model, name), "block") for name in "ab"}
    rows = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    record = LayerRecord(bins=1, peaks=rows.abs().amax(0)[None], moments=rows.mT @ rows / 50, rows=rows)
    w8a8 = QuantScheme.parse("w8a8")
    fits = {(name, "w8a8"): fit_layer(found.layer, record, w8a8) for name, found in layers.items()}
    found = layer_seconds(layers, fits, {"m.a": 16, "m.b": 2 * MOST_ROWS})
    assert found.keys() == {(name, scheme) for name in layers for scheme in ("w8a8", PLAIN)}
    assert all(taken > 0 for taken in found.values())
