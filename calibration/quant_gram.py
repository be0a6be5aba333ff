"""How wrong the denoiser's output gets when one layer is rounded, and how those errors add up: a Gram matrix.

For a squared error of the output the loss of a choice S of widths is, to second order, ``|sum of e_i|^2``, where e_i
is the error of the output with layer i alone in its width. So one call for each layer and width gives all products
``<e_i, e_j>``, and with them every choice: the inter-layer terms that a sum of single losses leaves out. The idea that
they matter is that of "Augmenting Hessians with Inter-Layer Dependencies" (arXiv 2306.04879), which is known to us by
its abstract; this Gauss-Newton form of it is ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dit_accel.api import accelerated
from dit_accel.calibration.quant_fit import LayerFit
from dit_accel.calibration.quant_flat import sides
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.layer import QuantLinear, Step
from dit_accel.passes.quantize.roles import Found
from dit_accel.passes.quantize.ways import INTEGERS, Ways
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.trees import leaves, map_tree
from dit_accel.schedules import GeneratorSpec
from dit_accel.session.session import session_of

BY = "calibration"
SKETCH = 4096  # numbers that an error is kept as
KEPT_EVERY = 16  # rounded layers, until all errors are written
CALLS = 8  # that errors are measured in, spread over the run
_EVERYTHING = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=1), invariants=False)

Place = tuple[str, str]
"""A layer's name and the text of its scheme."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCall:
    """One call of a denoiser, with what it answered.

    Attributes:
        denoiser: Its name.
        args: Positional arguments.
        kwargs: Named ones.
        output: All tensors of the output in one vector, fp32.
    """

    denoiser: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Gram:
    """Errors of a denoiser's output, layer by layer.

    Attributes:
        places: Layer and scheme of each row.
        products: fp64 [P, P]: products of two errors over the square of the output, averaged over calls.
    """

    places: tuple[Place, ...]
    products: Tensor

    def loss(self, chosen: Mapping[str, str], *, interactions: bool = True) -> float:
        """Squared error of the output over its square, of a choice: layer to scheme; layers in full are left out."""
        rows = [self.places.index(place) for place in chosen.items()]
        part = self.products[rows][:, rows]
        return float(part.sum() if interactions else part.diagonal().sum())


def keep_calls(pipe: Any, run: Callable[[], object], *, count: int = CALLS, scheduler: Any = None) -> list[KeptCall]:
    """Calls of a plain run, spread evenly over its steps and guidance branches.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it once.
        count: How many are kept.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        ConfigError: The denoiser was not called.
    """
    kept: list[KeptCall] = []
    with accelerated(pipe, _EVERYTHING, scheduler=scheduler):
        session = session_of(pipe)
        assert session is not None
        for runtime in session.runtimes:
            runtime.around(_Keeper(runtime.name, kept, count), order=100, by=BY)
        run()
    if not kept:
        raise ConfigError("the run did not call the denoiser, so nothing can be measured")
    places = torch.linspace(0, len(kept) - 1, min(count, len(kept))).round().long().tolist()
    return [kept[place] for place in dict.fromkeys(places)]


class _Keeper:
    def __init__(self, name: str, kept: list[KeptCall], count: int) -> None:
        self.name, self.kept, self.count = name, kept, count

    def __call__(self, call: Call, inner: Inner) -> Any:
        output = inner(call)
        if call.step % max(1, call.run.num_steps // self.count) == 0:
            args, kwargs = map_tree(_cloned, call.args), map_tree(_cloned, call.kwargs)
            self.kept.append(KeptCall(denoiser=self.name, args=args, kwargs=kwargs, output=flat(output)))
        return output


def gram_matrix(
    denoisers: Mapping[str, nn.Module],
    calls: Sequence[KeptCall],
    layers: Mapping[str, Found],
    fits: Mapping[Place, LayerFit],
    *,
    sketch: int = SKETCH,
    known: Mapping[Place, Tensor] | None = None,
    keep: Callable[[Mapping[Place, Tensor]], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Gram:
    """Round each layer alone, in each width, and see what becomes of the output.

    Args:
        denoisers: By name, plain.
        calls: See :func:`keep_calls`.
        layers: By name in plans.
        fits: Each layer in each width.
        sketch: Numbers that an error is kept as; the products of what is kept are right on average.
        known: Errors [calls, sketch] that were measured before, which are not measured again.
        keep: Given all errors that are measured so far, now and then.
        on_progress: Called with how many of how many are done.
    """
    ways = Ways(INTEGERS)
    errors = {place: each for place, each in (known or {}).items() if each.shape == (len(calls), sketch)}
    for number, (row, fit) in enumerate(fits.items()):
        name = row[0]
        if row in errors:
            continue
        own = torch.zeros(len(calls), sketch)
        found = layers[name]
        rounded = layer_of(found, fit, ways)
        found.parent._modules[found.name] = rounded
        try:
            for place, call in enumerate(calls):
                if not name.startswith(f"{call.denoiser}."):
                    continue
                with torch.no_grad():
                    output = flat(denoisers[call.denoiser](*call.args, **call.kwargs))
                own[place] = sketched((output - call.output) / call.output.norm().clamp_min(1e-30), sketch)
        finally:
            found.parent._modules[found.name] = found.layer
        errors[row] = own
        if keep is not None and (number + 1) % KEPT_EVERY == 0:
            keep(errors)
        if on_progress is not None:
            on_progress(number + 1, len(fits))
    flat_errors = torch.stack([errors[place] for place in fits]).flatten(1).double()
    return Gram(places=tuple(fits), products=flat_errors @ flat_errors.mT / len(calls))


def layer_of(found: Found, fit: LayerFit, ways: Ways) -> QuantLinear:
    """The layer that a fit describes, outside of any plan."""
    assert isinstance(found.layer, nn.Linear)
    layer = QuantLinear(
        found.layer,
        fit.weight.scaled(fit.gain),
        fit.scheme,
        Step(),
        inverse_smooth=fit.inverse_smooth,
        affine=sides(fit.affine),
        act_scale=fit.act_scale,
    )
    if fit.bias is not None:
        layer.bias = nn.Parameter(fit.bias.to(found.layer.weight), requires_grad=False)
    layer.way = ways
    return layer


def sketched(vector: Tensor, size: int) -> Tensor:
    """A vector in ``size`` numbers whose products are right on average: each element goes, with a sign, into a bucket.

    The same buckets for every vector of a length. Shorter ones are filled up and are exact.
    """
    vector = vector.cpu()
    out = torch.zeros(size)
    if vector.numel() <= size:
        out[: vector.numel()] = vector
        return out
    draw = torch.Generator().manual_seed(vector.numel())
    buckets = torch.randint(size, vector.shape, generator=draw)
    signs = torch.randint(0, 2, vector.shape, generator=draw) * 2 - 1
    return out.index_add_(0, buckets, vector * signs)


def flat(output: Any) -> Tensor:
    """All tensors of an output as one vector, fp32."""
    return torch.cat([each.detach().float().reshape(-1) for each in leaves(output)])


def _cloned(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
