"""What passes may plug into one denoiser, and whose each socket is: a second owner is an error that names both."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.families.base import BoundSite, Layout
from dit_accel.runtime.call import Answers, Around, Effect, Inner, Keeper, RowSource, Run
from dit_accel.runtime.spans import Span

DECIDES = "decides what is computed in each call"
ANSWERS = "answers calls without the denoiser"

OnRun = Callable[[Run], None]
MakeKeeper = Callable[[BoundSite], Keeper]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Around:
    by: str
    wrapper: Around
    order: int
    answers: Answers | None


class Sockets:
    """The sockets of one denoiser.

    Args:
        name: Of the denoiser, for messages.
        layout: Its sites.
    """

    def __init__(self, name: str, layout: Layout) -> None:
        self._name = name
        self._layout = layout
        self._owners: dict[str, str] = {}
        self._arounds: list[_Around] = []
        self._effects: list[tuple[str, Callable[[], Effect | None]]] = []
        self.source: RowSource | None = None
        self.keepers: list[Keeper | None] = [None] * len(layout.sites)
        self.spans: dict[int, Span] = {}
        self.on_run: list[OnRun] = []
        self.eager_because: str | None = None
        self.books: dict[str, Any] = {}  # what a pass notes of this denoiser for its own effect, by its name

    def claim(self, what: str, *, by: str) -> None:
        """Note that a pass is the only one to do something to this denoiser.

        Raises:
            ConfigError: Another one has claimed it.
        """
        owner = self._owners.setdefault(what, by)
        if owner != by:
            raise ConfigError(
                f"'{owner}' and '{by}' cannot be combined on '{self._name}': both want to be the one that {what}"
            )

    def decide(self, source: RowSource, *, by: str) -> None:
        """Let ``source`` decide what each site does in each call."""
        self.claim(DECIDES, by=by)
        self.source = source

    def keep(self, pattern: str, make: MakeKeeper, *, by: str) -> None:
        """Give a keeper to every site whose id matches a shell-style pattern."""
        for position, site in enumerate(self._layout.sites):
            if fnmatchcase(site.info.id, pattern):
                self.claim(f"answers for '{site.info.id}' from kept values", by=by)
                self.keepers[position] = make(site)

    def span(self, span: Span, *, by: str) -> None:
        """Keep a span of blocks as one; its rows come from the same pass's row source."""
        self.claim("keeps spans of blocks as one", by=by)
        self.spans.update(dict.fromkeys(span.positions, span))

    def around(self, wrapper: Around, *, order: int = 0, by: str, answers: Answers | None = None) -> None:
        """Wrap every call; those of lower order are further out.

        Args:
            wrapper: See :data:`~dit_accel.runtime.call.Around`.
            order: Its place.
            by: The pass.
            answers: At which steps it does not call the denoiser, so that schedules count only those that remain.
        """
        if answers is not None:
            self.claim(ANSWERS, by=by)
        self._arounds.append(_Around(by=by, wrapper=wrapper, order=order, answers=answers))
        self._arounds.sort(key=lambda item: item.order)

    def around_of(self, by: str) -> Around | None:
        """What a pass wraps every call with, if it does."""
        return next((item.wrapper for item in self._arounds if item.by == by), None)

    def stay_eager(self, reason: str, *, by: str) -> None:
        """Refuse to be compiled whole, whoever asks: ``by`` changes rows while they run. ``reason`` is a sentence."""
        self.eager_because = f"'{by}' {reason}"

    def each_run(self, hook: OnRun, *, by: str) -> None:
        """Call ``hook`` at the first call of every run."""
        self.on_run.append(hook)

    def report(self, effect: Callable[[], Effect | None], *, by: str) -> None:
        """Say what a pass did; asked after every run, and by ``summary``."""
        self._effects.append((by, effect))

    def effects(self) -> dict[str, Effect]:
        """What each pass says of itself, those that have nothing to say left out."""
        asked = [(by, effect()) for by, effect in self._effects]
        return {by: effect for by, effect in asked if effect is not None}

    def absent(self, run: Run, branch: Hashable) -> frozenset[int]:
        """The steps at which a branch's calls are answered without the denoiser."""
        chosen = [item.answers(run, branch) for item in self._arounds if item.answers is not None]
        return frozenset().union(*chosen)

    def chain(self, innermost: Inner) -> Inner:
        """All that wraps a call, around ``innermost``."""
        inner = innermost
        for item in reversed(self._arounds):
            inner = _wrapped(item.wrapper, inner)
        return inner

    @property
    def depths(self) -> dict[str, int]:
        """How many kept values the sites with a keeper read, by site id."""
        pairs = zip(self._layout.sites, self.keepers, strict=True)
        return {site.info.id: keeper.depth for site, keeper in pairs if keeper is not None}

    @property
    def keeps_branches_apart(self) -> bool:
        """Whether anything here asks which guidance branch a call belongs to."""
        return self.source is not None or bool(self._arounds)


def _wrapped(wrapper: Around, inner: Inner) -> Inner:
    return lambda call: wrapper(call, inner)
