"""Every error a user can meet. Each message says what was found, what was wanted, and what to do."""

import difflib
from collections.abc import Iterable


class DitAccelError(Exception):
    """Base of all errors raised on purpose by this library."""


class ConfigError(DitAccelError, ValueError):
    """A configuration, plan file or argument is not valid."""


class UnsupportedModelError(DitAccelError, TypeError):
    """The pipeline has no denoiser we understand, or a pass cannot work on this model."""


class MissingDependencyError(DitAccelError, ImportError):
    """An optional package is missing; the message names the extra that brings it."""

    @classmethod
    def for_extra(cls, package: str, extra: str, purpose: str) -> "MissingDependencyError":
        return cls(f"{purpose} needs '{package}', which is not installed: pip install 'dit-accel[{extra}]'")


class PlanMismatchError(DitAccelError, ValueError):
    """A plan was made for another model, step count, scheduler, resolution or guidance."""


class IrreversibleError(DitAccelError, RuntimeError):
    """An applied pass cannot be undone on this object."""


class CommunicationError(DitAccelError, RuntimeError):
    """Ranks that compute one picture together have lost each other, or do not do the same."""


class AccelerationWarning(UserWarning):
    """Something will be slower or less exact than the plan says; ``strict=True`` makes it an error."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known word, or an empty string."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[close[0]]}'?" if close else ""
