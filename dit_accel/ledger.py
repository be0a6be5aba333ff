"""Every change to a live object goes through here, and can be undone: same attributes, nothing left behind."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Patch(Generic[T]):
    """A callable put in place of a method of one instance.

    It looks like what it replaces (``inspect.signature`` follows it), and it survives ``copy.deepcopy`` of its owner:
    the copy gets :meth:`rebound` instead of a method that would act on the original.

    Args:
        owner: The instance whose method this replaces.
        name: The method's name.
    """

    def __init__(self, owner: T, name: str) -> None:
        self.owner = owner
        self.name = name
        self.original: Callable[..., Any] = getattr(owner, name)
        self.__wrapped__ = self.original
        self.__name__ = name
        self.__doc__ = getattr(self.original, "__doc__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def rebound(self, copy: T) -> Callable[..., Any]:
        """What a deep copy of the owner gets as this method: by default its class's own."""
        method: Callable[..., Any] = getattr(type(copy), self.name).__get__(copy)
        return method

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        return self.rebound(memo.get(id(self.owner), self.owner))


class PatchLedger:
    """Records attribute changes on instances and undoes them in reverse order.

    Others may wrap our wrappers later (accelerate's offload hooks, diffusers' hooks). Undo then takes ours out from
    under theirs, so that removing their hook does not bring ours back.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Any, str, bool, Any, Any]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an instance attribute, remembering what was there."""
        had_own = name in vars(owner)
        old = vars(owner).get(name)
        setattr(owner, name, value)
        self._entries.append((owner, name, had_own, old, value))

    def adopt(self, owner: Any, name: str, value: Any) -> None:
        """Take over an attribute that a deep copy of a patched object was born with."""
        self._entries.append((owner, name, False, None, value))

    def undo(self, since: int = 0) -> None:
        """Undo every change made after the first ``since`` ones, last first."""
        while len(self._entries) > since:
            _restore(*self._entries.pop())

    def undo_on(self, owner: Any) -> None:
        """Undo every change on one object, last first, and forget it."""
        for position in reversed(range(len(self._entries))):
            if self._entries[position][0] is owner:
                _restore(*self._entries.pop(position))


def _restore(owner: Any, name: str, had_own: bool, old: Any, value: Any) -> None:
    if vars(owner).get(name) is value:
        if had_own:
            setattr(owner, name, old)
        else:
            delattr(owner, name)
    elif isinstance(value, Patch):
        _take_out(owner, value, old if had_own else value.rebound(owner))


def _take_out(owner: Any, patch: Patch[Any], replacement: Any) -> None:
    """Replace ``patch`` where later wrappers keep it: accelerate's ``_old_forward``, diffusers' hook chain."""
    if vars(owner).get("_old_forward") is patch:
        owner._old_forward = replacement
    registry = vars(owner).get("_diffusers_hook")
    for reference in getattr(registry, "_fn_refs", ()):
        for slot in ("forward", "original_forward"):
            if getattr(reference, slot, None) is patch:
                setattr(reference, slot, replacement)
