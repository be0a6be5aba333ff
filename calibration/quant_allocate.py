"""Gives each layer its bits: an integer program under budgets, then exchanges that know how errors add up.

The program minimises the sum of single errors (MixDQ's, arXiv 2405.17873, section 3.3, with one budget instead of one
for each kind of layer), solved by HiGHS to proven optimality. What it cannot see are products of two layers' errors;
a descent over single changes and pairs of changes lowers the whole quadratic form from there, within the same budgets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch

from dit_accel.calibration.quant_gram import Gram
from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.passes.quantize.scheme import PLAIN

GAP = 1e-4
MAX_ROUNDS = 200  # of the descent; each lowers the loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One width of one layer.

    Attributes:
        layer: Its name.
        scheme: Text; ``"plain"``: in full.
        nbytes: That it takes.
        seconds: That it takes in a call; 0 where nobody measures time.
    """

    layer: str
    scheme: str
    nbytes: float
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What all layers together may take; ``None``: as much as they like."""

    nbytes: float | None = None
    seconds: float | None = None

    def holds(self, nbytes: float, seconds: float) -> bool:
        """Whether a choice is within it, rounding aside."""
        return (self.nbytes is None or nbytes <= self.nbytes * (1 + 1e-9)) and (
            self.seconds is None or seconds <= self.seconds * (1 + 1e-9)
        )


def allocate(options: Sequence[Option], gram: Gram, budget: Budget, *, interactions: bool = True) -> dict[str, str]:
    """Which scheme each layer gets.

    Args:
        options: Of every layer at least one.
        gram: Errors of each option but the plain ones, whose error is 0.
        budget: Of all layers.
        interactions: Go on with exchanges by the whole Gram matrix; else only single errors count.

    Raises:
        ConfigError: Nothing is within the budget; it says what the least is.
        MissingDependencyError: scipy is not installed.
    """
    errors = np.array([_own(gram, option) for option in options])
    first = _program(options, errors, budget)
    if not interactions:
        return {option.layer: option.scheme for option in first}
    starts = [first, _greedy(options, gram, budget)]
    ends = [_descend(start, options, gram, budget) for start in starts if start]
    return min(ends, key=lambda chosen: gram.loss({a: b for a, b in chosen.items() if b != PLAIN}))


def _own(gram: Gram, option: Option) -> float:
    if option.scheme == PLAIN:
        return 0.0
    row = gram.places.index((option.layer, option.scheme))
    return float(gram.products[row, row])


def _program(options: Sequence[Option], errors: npt.NDArray[np.float64], budget: Budget) -> list[Option]:
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array
    except ImportError as error:
        raise MissingDependencyError.for_extra("scipy", "eval", "giving layers their bits") from error
    layers = list(dict.fromkeys(option.layer for option in options))
    rows = [layers.index(option.layer) for option in options]
    once = csr_array((np.ones(len(options)), (rows, range(len(options)))), shape=(len(layers), len(options)))
    limits = [LinearConstraint(once, 1, 1)]
    for name in ("nbytes", "seconds"):
        most = getattr(budget, name)
        if most is not None:
            costs = np.array([getattr(option, name) for option in options])
            # In shares of the budget, so that bytes and seconds are of one size to the solver.
            limits.append(LinearConstraint(costs[None] / most, -np.inf, 1.0))
    scale = errors.max() or 1.0
    found = milp(
        errors / scale,
        constraints=limits,
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": GAP},
    )
    if found.x is None:
        raise ConfigError(_impossible(options, layers, budget))
    return [option for option, taken in zip(options, found.x, strict=True) if taken > 0.5]


def _impossible(options: Sequence[Option], layers: Sequence[str], budget: Budget) -> str:
    by_layer = [[option for option in options if option.layer == layer] for layer in layers]
    said = []
    if budget.nbytes is not None:
        least = sum(min(option.nbytes for option in own) for own in by_layer)
        said.append(f"{least / 2**20:.2f} MiB is the least, {budget.nbytes / 2**20:.2f} MiB are allowed")
    if budget.seconds is not None:
        quickest = sum(min(option.seconds for option in own) for own in by_layer)
        said.append(f"{quickest * 1e3:.2f} ms is the least, {budget.seconds * 1e3:.2f} ms are allowed")
    return f"no choice of widths is within the budget: {'; '.join(said)}"


def _greedy(options: Sequence[Option], gram: Gram, budget: Budget) -> list[Option]:
    """From the least bytes up, each time the change that lowers the loss most for what it costs; empty: not within.

    A second start: layers whose errors cancel look dear one by one, and from where they are in full no single exchange
    leads back.
    """
    now: dict[str, Option] = {}
    for option in options:
        if option.layer not in now or option.nbytes < now[option.layer].nbytes:
            now[option.layer] = option
    form = _Form(gram)
    while True:
        nbytes, seconds = _cost(now.values())
        if not budget.holds(nbytes, seconds):
            return []
        taken = [form.row(option) for option in now.values()]
        best, best_worth = None, 0.0
        for new in options:
            old = now[new.layer]
            more = new.nbytes - old.nbytes
            if more <= 0 or not budget.holds(nbytes + more, seconds + new.seconds - old.seconds):
                continue
            worth = -form.change(taken, form.row(old), form.row(new)) / more
            if worth > best_worth:
                best, best_worth = new, worth
        if best is None:
            return list(now.values())
        now[best.layer] = best


class _Form:
    """The quadratic form, with a row of noughts for what stays in full."""

    def __init__(self, gram: Gram) -> None:
        size = len(gram.places)
        products = torch.zeros(size + 1, size + 1, dtype=torch.float64)
        products[:-1, :-1] = gram.products
        self.matrix = products.numpy()
        self._rows = {place: number for number, place in enumerate(gram.places)}

    def row(self, option: Option) -> int:
        return self._rows.get((option.layer, option.scheme), len(self.matrix) - 1)

    def change(self, taken: list[int], old: int, new: int) -> float:
        """Of the loss, when one of the rows that are taken is exchanged."""
        both = self.matrix[new, taken].sum() - self.matrix[old, taken].sum()
        own = self.matrix[new, new] + self.matrix[old, old] - 2 * self.matrix[new, old]
        return float(2 * both + own)


def _cost(options: Iterable[Option]) -> tuple[float, float]:
    pairs = [(option.nbytes, option.seconds) for option in options]
    return sum(nbytes for nbytes, _ in pairs), sum(seconds for _, seconds in pairs)


def _descend(first: list[Option], options: Sequence[Option], gram: Gram, budget: Budget) -> dict[str, str]:
    """The best single change, or the best pair of changes, again and again until none lowers the loss."""
    form = _Form(gram)
    matrix, at = form.matrix, form.row
    layers = [option.layer for option in first]
    others = {layer: [option for option in options if option.layer == layer] for layer in layers}
    now = {option.layer: option for option in first}

    for _ in range(MAX_ROUNDS):
        taken = [at(now[layer]) for layer in layers]
        sums = matrix[:, taken].sum(1)
        nbytes, seconds = _cost(now.values())
        moves = []
        for layer in layers:
            old = now[layer]
            for new in others[layer]:
                if new.scheme != old.scheme:
                    i, j = at(old), at(new)
                    change = 2 * (sums[j] - sums[i]) + matrix[j, j] + matrix[i, i] - 2 * matrix[j, i]
                    moves.append((change, old, new, i, j))
        best: tuple[tuple[Option, Option], ...] = ()
        best_change = -1e-12 * abs(float(matrix[np.ix_(taken, taken)].sum())) - 1e-30
        for change, old, new, _, _ in moves:
            if change < best_change and budget.holds(
                nbytes + new.nbytes - old.nbytes, seconds + new.seconds - old.seconds
            ):
                best_change, best = change, ((old, new),)
        down = [move for move in moves if move[2].nbytes < move[1].nbytes or move[2].seconds < move[1].seconds]
        for (a, old_a, new_a, i, j), (b, old_b, new_b, k, m) in product(moves, down):
            if old_a.layer == old_b.layer or a >= 0:
                continue
            both = a + b + 2 * (matrix[j, m] - matrix[j, k] - matrix[i, m] + matrix[i, k])
            if both < best_change and budget.holds(
                nbytes + new_a.nbytes - old_a.nbytes + new_b.nbytes - old_b.nbytes,
                seconds + new_a.seconds - old_a.seconds + new_b.seconds - old_b.seconds,
            ):
                best_change, best = both, ((old_a, new_a), (old_b, new_b))
        if not best:
            break
        for _, new in best:
            now[new.layer] = new
    return {layer: now[layer].scheme for layer in layers}
