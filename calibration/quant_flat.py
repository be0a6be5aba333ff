"""Learns FlatQuant's transforms (Sun et al., arXiv 2410.09426) for a layer: what both sides round best after.

``Y = Q(X P) Q(inverse(P) W')``, P a Kronecker product of two matrices, trained with straight-through rounding to make
the layer's output what it was. Departures: layer by layer instead of block by block, so that nothing but what a layer
was given has to be kept; the two matrices themselves are trained, with inverses in fp64 (the authors' ``direct_inv``);
no learned clipping: that of weights is searched when they are rounded, and activations keep their whole range. Three
starts, the best of which is taken up, are Hadamard's matrices (where the sizes are powers of two), random orthogonal
ones and none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dit_accel.kernels.hadamard import hadamard_matrix
from dit_accel.kernels.int8_truth import SMALLEST_PEAK, largest
from dit_accel.passes.quantize.affine import factors, inverse_transformed, transformed
from dit_accel.passes.quantize.scheme import QuantScheme

ROUNDS = 120
RATE = 5e-3  # FlatQuant's, cosine to a thousandth
LEARNED_FRAC = 0.75  # of the rows; the others say which round was the best
TRIED_EVERY = 10


@dataclass(frozen=True, slots=True)
class Affine:
    """A transform; see :mod:`dit_accel.passes.quantize.affine`."""

    left: Tensor
    right: Tensor


def sides(affine: Affine | None) -> tuple[Tensor, Tensor] | None:
    """Both matrices, as layers take them."""
    return None if affine is None else (affine.left, affine.right)


def learn_affine(
    weight: Tensor, rows: Tensor, scheme: QuantScheme, *, rounds: int = ROUNDS, rate: float = RATE, seed: int = 0
) -> Affine:
    """The transform of one layer.

    Args:
        weight: [N, K], smoothed if the layer is.
        rows: [R, K], that the layer was given, smoothed alike.
        scheme: The grids.
        rounds: Of gradient descent, all learned rows in each.
        rate: Of Adam at the start.
        seed: Of the random start.
    """
    weight, rows = weight.detach().float(), rows.detach().float()
    cut = max(1, round(len(rows) * LEARNED_FRAC))
    learned, held = rows[:cut], rows[cut:] if cut < len(rows) else rows
    wanted, kept = learned @ weight.mT, held @ weight.mT

    def loss(left: Tensor, right: Tensor, x: Tensor, y: Tensor) -> Tensor:
        given = _rounded_rows(transformed(x, left, right), scheme)
        turned = _rounded_weight(inverse_transformed(weight, left, right), scheme)
        return (given @ turned.mT - y).square().mean() / y.square().mean().clamp_min(1e-30)

    with torch.no_grad():
        begun = min(_starts(weight.shape[1], seed), key=lambda start: float(loss(start[0], start[1], held, kept)))
        best, least = begun, float(loss(begun[0], begun[1], held, kept))
    parameters = [each.clone().requires_grad_(True) for each in begun]
    optimiser = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, rounds, eta_min=rate * 1e-3)
    for number in range(1, rounds + 1):
        with torch.enable_grad():
            optimiser.zero_grad()
            loss(parameters[0], parameters[1], learned, wanted).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if number % TRIED_EVERY == 0:
            with torch.no_grad():
                now = float(loss(parameters[0], parameters[1], held, kept))
            if now < least:
                least, best = now, (parameters[0].detach().clone(), parameters[1].detach().clone())
    return Affine(*best)


def _starts(size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    found = []
    sides = factors(size)
    for make in (torch.eye, lambda n: torch.linalg.qr(torch.randn(n, n, generator=draw))[0]):
        found.append((make(sides[0]), make(sides[1])))
    if all(side & (side - 1) == 0 for side in sides):
        found.append((hadamard_matrix(sides[0]).clone(), hadamard_matrix(sides[1]).clone()))
    return found


def _rounded_rows(x: Tensor, scheme: QuantScheme) -> Tensor:
    if scheme.a_bits == 16:
        return x
    scale = x.abs().amax(-1, keepdim=True).clamp_min(SMALLEST_PEAK) / largest(scheme.a_bits)
    return _through(x / scale) * scale


def _rounded_weight(weight: Tensor, scheme: QuantScheme) -> Tensor:
    """The nearest of a grid with steps of any size: the real grid's are whole multiples, and close by."""
    if scheme.w_bits == 8 or not scheme.group:
        scale = weight.abs().amax(1, keepdim=True).clamp_min(SMALLEST_PEAK) / largest(scheme.w_bits)
        return _through(weight / scale) * scale
    outputs, size = weight.shape
    more = -size % scheme.group
    parts = torch.nn.functional.pad(weight, (0, more)).view(outputs, -1, scheme.group)
    low, high = parts.amin(-1, keepdim=True).clamp_max(0), parts.amax(-1, keepdim=True).clamp_min(0)
    step = ((high - low) / 15).clamp_min(SMALLEST_PEAK)
    zero = torch.round(-low / step).detach()
    rounded = ((_through(parts / step) + zero).clamp(0, 15) - zero) * step
    return rounded.view(outputs, -1)[:, :size]


def _through(x: Tensor) -> Tensor:
    """Rounded, with the gradient of what was not."""
    return x + (torch.round(x) - x).detach()
