"""What the next prompt can count on: split-conformal bounds from values that were measured on held-out prompts.

Of n held-out values and one new one, none is special: if they are *exchangeable*, the new one's rank among the n + 1
is uniform. So it lies below the k-th smallest of the n with a probability of at most k / (n + 1), whatever the
distribution (Vovk, Gammerman & Shafer, *Algorithmic Learning in a Random World*, 2005; Angelopoulos & Bates, arXiv
2107.07511, section 1 and appendix D). The score itself is bounded, from one side; no regression stands between, and
plans are fitted to other prompts than these, which is the split.

Exchangeable means: the new prompt and seed are drawn as the held-out ones were, and the run is one that the
certificate covers. Prompts of another kind (another language, longer ones, words that the model does not know) are
not, and nothing is promised of them. The promise is of one prompt and one metric at a time, and on average over draws
of the held-out ones: given those that were drawn, the share of new prompts that stay within a bound is
Beta(n + 1 - k, k) distributed (the same, section 3.2): with n = 200 and k = 20 between 0.86 and 0.94 in 95 of 100
certificates.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

from pydantic import BaseModel, ConfigDict, Field

LEVEL = 0.9


class Bound(BaseModel):
    """A new prompt's value is on the good side of it with a probability of at least ``level``.

    Attributes:
        value: In the metric's unit: a lower bound where higher is better, else an upper one.
        level: The probability.
        n: Held-out values that it is made of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: float
    level: float = Field(gt=0, lt=1)
    n: int = Field(ge=1)

    @property
    def share(self) -> str:
        """The level in words: ``9 of 10``."""
        part = Fraction(self.level).limit_denominator(1000)
        return f"{part.numerator} of {part.denominator}"


def conformal_bound(values: Sequence[float], *, level: float = LEVEL, higher_is_better: bool = True) -> Bound | None:
    """The one-sided split-conformal bound: the floor((n + 1) (1 - level))-th worst of n values.

    Args:
        values: One for each held-out prompt.
        level: Probability with which a new value is at least as good, between 0 and 1.
        higher_is_better: Which end is the worst.

    Returns:
        ``None`` where n is too small for the level: below 9 values nothing holds for nine of ten.
    """
    # The smallest amount more, or 10 * (1 - 0.9) would be less than 1.
    rank = math.floor((len(values) + 1) * (1 - level) + 1e-9)
    if rank < 1:
        return None
    worst_first = sorted(values, reverse=not higher_is_better)
    return Bound(value=worst_first[rank - 1], level=level, n=len(values))
