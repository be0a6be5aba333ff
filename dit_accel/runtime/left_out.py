"""The sites that a live run has shown cannot be kept: they compute, the others go on."""

from torch import nn

from dit_accel.families.base import Layout
from dit_accel.families.fit import processors_of, watched_sites


class LeftOut:
    """Collects them during a denoiser call; all of this happens before anything of such a site is reused.

    Args:
        denoiser: The model.
        layout: Its sites.

    Attributes:
        is_due: Whether the running call has shown something new, so that its rows have to be made again.
    """

    def __init__(self, denoiser: nn.Module, layout: Layout) -> None:
        self.layout = layout
        self._attentions = processors_of(denoiser)
        self._unfit: dict[str, str] = {}
        self._watched: dict[str, str] = {}
        self.is_due = False

    @property
    def reasons(self) -> dict[str, str]:
        """Why, by site id."""
        return {**self._watched, **self._unfit}

    def look(self) -> bool:
        """Something begins to be kept; returns whether other sites must be left out than the last time."""
        before, self._watched = self._watched, watched_sites(self._attentions, self.layout)
        return before != self._watched

    def add(self, site: str, reason: str) -> None:
        """Leave a site out from now on."""
        if site not in self._unfit:
            self._unfit[site] = reason
            self.is_due = True

    def words(self, name: str) -> str:
        """What to warn of, for the denoiser of this name."""
        reasons = self.reasons
        site, reason = next(iter(reasons.items()))
        return (
            f"{len(reasons)} sites of '{name}' cannot be kept and compute as without the plan; the others are "
            f"accelerated. The first is {site}: {reason}."
        )
