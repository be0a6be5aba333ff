"""Which guidance branch a denoiser call belongs to, and so whose kept values it may use."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from dit_accel.ledger import Patch
from dit_accel.tracks import Inputs, Track


class Branches:
    """The tracks of one run: one for each guidance branch.

    A branch is known by the name that the pipeline gives it (``cache_context``), else by its conditioning. A model
    without conditioning that is called several times a step has no branches that could be told apart, for guidance
    may be switched off half-way; then no call continues a track.

    Args:
        note: Takes the reason whenever a track cannot be continued.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.context: str | None = None
        self._tracks: dict[Any, Track] = {}
        self._lost: set[Any] = set()
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

    def find(self, inputs: Inputs, step: int, place: int) -> tuple[Any, Track | None]:
        """The key of this call's branch, and the track that it continues, if any."""
        self._expire(step)
        key = self._key(inputs, step, place)
        track = self._tracks.get(key)
        if track is None:
            if key in self._lost:
                self.note("another step than expected")
            return key, None
        if not track.fits(step, inputs):
            self.note("another shape than expected")
            return key, None
        if not track.inputs.is_given_the_same(inputs) and not track.inputs.is_given_equal(inputs):
            self.note("the conditioning changed")
            return key, None
        if self._is_ambiguous(inputs):
            self.note("several calls a step, and nothing to tell the branches by")
            return key, None
        return key, track

    def keep(self, key: Any, track: Track) -> None:
        """A track begins for this branch."""
        self._tracks[key] = track

    def _expire(self, step: int) -> None:
        # A step that went by without this branch: what it kept can never be used again.
        for key in [key for key, track in self._tracks.items() if track.next_step < step]:
            del self._tracks[key]
            self._lost.add(key)

    def _key(self, inputs: Inputs, step: int, place: int) -> Any:
        if self.context is not None:
            return self.context
        # Guidance may have been switched off: then the first call of a step is not the branch it used to be.
        fitting = [(key, track) for key, track in self._tracks.items() if track.fits(step, inputs)]
        for same in (Inputs.is_given_the_same, Inputs.is_given_equal):
            for key, track in fitting:
                if same(track.inputs, inputs):
                    return key
        return place

    def _is_ambiguous(self, inputs: Inputs) -> bool:
        told_apart = self.context is not None or inputs.conditioning
        return not told_apart and len(self._tracks) > 1


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
