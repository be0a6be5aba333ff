"""Which prompts count more in a fit: the difficult ones, where the worst matter as much as the mean.

Least squares adds up squares of errors of the answers, in which easy and difficult prompts count alike. To make the
end of the run good for the difficult ones, the regression is weighted by how far each prompt's own run ended from the
recorded one, and made again: iteratively reweighted least squares (Lawson 1961), for the sum of errors to the power
2 + ``tail``. The larger ``tail``, the nearer to the least largest error.
"""

from typing import Any

import numpy as np

ROUNDS = 2
LARGEST = 8.0  # how much more than in the mean a prompt may count


def emphasis_of(errors: Any, tail: float, before: Any = None) -> Any:
    """float64 [P], 1 in the mean: how much each prompt counts.

    Args:
        errors: float64 [P], of the prompts' last latents.
        tail: Above 0.
        before: With what the errors were found; the new one is half-way to it, so that rounds settle.
    """
    size = np.asarray(errors, dtype=np.float64)
    wanted = (size / max(float(np.exp(np.log(np.maximum(size, 1e-12)).mean())), 1e-12)) ** tail
    found = np.clip(wanted, 1 / LARGEST, LARGEST)
    if before is not None:
        found = np.sqrt(found * before)
    return found / found.mean()


def powers(errors: Any, tail: float) -> float:
    """What rounds make small: the mean of errors to the power 2 + ``tail``."""
    return float((np.asarray(errors, dtype=np.float64) ** (2 + tail)).mean())
