"""Which guidance branch a denoiser call belongs to, and so whose kept values it may use."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from dit_accel.runtime.patch import Patch
from dit_accel.runtime.tracks import Inputs, Track


class Branches:
    """The tracks of one run: one for each guidance branch.

    A branch is known by the name that the pipeline gives it (``cache_context``), else by its conditioning. Branches of
    equal conditioning (or of a model that has none) cannot be told apart, for guidance may be switched off half-way;
    then no call continues a track.

    Args:
        note: Takes the reason whenever a track cannot be continued.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.context: str | None = None
        self._tracks: dict[Any, Track] = {}
        self._lost: set[Any] = set()
        self._numbers = itertools.count()
        self._at: tuple[int, int] = (-1, -1)
        self._calls = 0

    def __iter__(self) -> Iterator[Track]:
        return iter(self._tracks.values())

    def clear(self) -> None:
        """Drop every track."""
        self._tracks.clear()
        self._lost.clear()

    def count_call(self, run: int, step: int) -> int:
        """The place of this call among those of its step."""
        self._calls = self._calls + 1 if (run, step) == self._at else 0
        self._at = (run, step)
        return self._calls

    def find(self, inputs: Inputs, step: int) -> tuple[Any, Track | None]:
        """The key of this call's branch, and the track that it continues, if any."""
        self._expire(step)
        mine = {key: track for key, track in self._tracks.items() if self._may_be(key)}
        due = [key for key, track in mine.items() if track.next_step == step]
        fitting = [key for key, track in mine.items() if track.fits(inputs)]
        # Which call of the step this is tells nothing: guidance may have been switched on or off since the last one.
        for same in (Inputs.is_given_the_same, Inputs.is_given_equal) if due else ():
            alike = [key for key in fitting if same(mine[key].inputs, inputs)]
            for key in alike:
                if key not in due:
                    continue
                if len(alike) > 1:
                    self.note("several calls a step, and nothing to tell the branches by")
                    return key, None
                return key, mine[key]
        if any(key in due for key in fitting):
            self.note("the conditioning changed")
        elif due:
            self.note("another shape than expected")
        elif any(self._may_be(key) for key in self._lost):
            self.note("another step than expected")
        return self._new_key(), None

    def keep(self, key: Any, track: Track) -> None:
        """A track begins for this branch."""
        self._tracks[key] = track

    def forget(self, key: Any) -> None:
        """A track cannot be continued."""
        self._tracks.pop(key, None)

    def _expire(self, step: int) -> None:
        # A step that went by without this branch: what it kept can never be used again.
        for key in [key for key, track in self._tracks.items() if track.next_step < step]:
            del self._tracks[key]
            self._lost.add(key)

    def _may_be(self, key: Any) -> bool:
        return key == self.context if self.context is not None else isinstance(key, int)

    def _new_key(self) -> Any:
        return self.context if self.context is not None else next(self._numbers)


class CacheContext(Patch[nn.Module]):
    """``denoiser.cache_context(name)``: pipelines that call once per guidance branch name the branch with it."""

    def __init__(self, denoiser: nn.Module, branches: Branches) -> None:
        super().__init__(denoiser, "cache_context")
        self.branches = branches

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> "_NamedBranch":
        return _NamedBranch(self.branches, name, self.original(name, *args, **kwargs))


class _NamedBranch:
    def __init__(self, branches: Branches, name: str, inner: Any) -> None:
        self.branches = branches
        self.name = name
        self.inner = inner
        self.outer: str | None = None

    def __enter__(self) -> Any:
        self.outer, self.branches.context = self.branches.context, self.name
        return self.inner.__enter__()

    def __exit__(self, *exc: Any) -> Any:
        self.branches.context = self.outer
        return self.inner.__exit__(*exc)
