"""Chooses within a budget of memory; with a distance, the smallest budget that keeps it, by bisection."""

from collections.abc import Callable
from typing import Protocol

from dit_accel.calibration.quant_allocate import Option
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.config import QuantizeConfig

TOLERANCE = 0.01  # of the memory as it was, to which a budget is searched


class Choosing(Protocol):
    """What a search can do: :class:`~dit_accel.calibration.quant_search.Search`."""

    base: QuantizeConfig

    def options(self) -> list[Option]: ...

    def share(self, chosen: dict[str, str]) -> float: ...

    def within(self, memory: float) -> dict[str, str]: ...

    def distance(self, chosen: dict[str, str]) -> float: ...


def choose(search: Choosing, memory: float | None, max_lpips: float | None) -> dict[str, str]:
    """The choice within the budget; with a distance the smallest one that keeps it.

    Raises:
        ConfigError: Nothing is within the budgets, or nothing within them keeps the distance.
    """
    least = search.share(_extreme(search, min))
    if memory is not None and memory < least:
        raise ConfigError(
            f"{memory:.0%} of the memory is less than {search.base.bits} can do: {least:.1%} is the least"
        )
    if max_lpips is None:
        return search.within(1.0 if memory is None else memory)
    if memory is not None:
        chosen = search.within(memory)
        distance = search.distance(chosen)
        if distance <= max_lpips:
            return chosen
        best = _nearest(search, memory, max_lpips)
        if search.share(best) > memory:
            raise ConfigError(
                f"within {memory:.0%} of the memory the distance is {distance:.4f}, more than {max_lpips:g}; "
                f"{search.share(best):.1%} of the memory keeps it. Allow either"
            )
        return best
    return _kept(search, least, max_lpips) or _nearest(search, least, max_lpips)


def _nearest(search: Choosing, low: float, max_lpips: float) -> dict[str, str]:
    """The choice with the least memory that keeps a distance, which ``low`` does not."""
    high = max(low, search.share(_extreme(search, max)))
    best = search.within(high)
    if search.distance(best) > max_lpips:
        raise ConfigError(
            f"no choice of widths keeps a distance of {max_lpips:g}: with layers as near to plain as budgets allow it "
            f"is {search.distance(best):.4f}. Allow more, or leave modulation or convs 'plain'"
        )
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        tried = _kept(search, middle, max_lpips)
        if tried is None:
            low = middle
        else:
            high, best = min(middle, search.share(tried)), tried
    return best


def _kept(search: Choosing, memory: float, max_lpips: float) -> dict[str, str] | None:
    """The choice for a budget, where there is one and it keeps the distance."""
    try:
        tried = search.within(memory)
    except ConfigError:  # so few bytes take more time than is allowed
        return None
    return tried if search.distance(tried) <= max_lpips else None


def _extreme(search: Choosing, by: Callable[..., Option]) -> dict[str, str]:
    """The choice with the least, or the most, bytes."""
    own: dict[str, list[Option]] = {}
    for option in search.options():
        own.setdefault(option.layer, []).append(option)
    return {name: by(options, key=lambda option: option.nbytes).scheme for name, options in own.items()}
