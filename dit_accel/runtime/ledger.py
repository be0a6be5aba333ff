"""Every change to a live object goes through here, and can be undone: same attributes, nothing left behind."""

import types
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from dit_accel.errors import IrreversibleError
from dit_accel.runtime.patch import Patch

RUNTIME = "runtime"  # the author of changes that no single pass asked for
# Where a module keeps what is no plain attribute. The order in them is that of ``state_dict``.
_REGISTRIES = ("_parameters", "_buffers", "_modules")


class PatchLedger:
    """Records changes on instances, each with the name of who made it, and undoes them in reverse order.

    Attributes, modules, parameters and buffers go through :meth:`set`, methods as :class:`Patch`, and anything else
    (hooks, callbacks, caches) is recorded with :meth:`on_undo`. What cannot be undone is refused at once. Patches are
    held weakly, by the object that they patch: a scheduler that a pipeline copies for every call can be collected.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, owner: Any, name: str, value: Any, *, by: str) -> None:
        """Set an attribute, submodule, parameter, buffer or method of one instance, remembering what was there.

        Args:
            owner: The instance.
            name: Of the attribute.
            value: A :class:`Patch` takes the place of the method it was made for.
            by: Who makes the change: the name of a pass.

        Raises:
            IrreversibleError: It could not be undone: ``owner`` is a class or a module of Python, refuses the value,
                or does not keep it as it is.
        """
        if isinstance(value, Patch):
            setattr(value.holder, value.slot, value)
            self.adopt(value, by=by)
            return
        if isinstance(owner, type | types.ModuleType):
            raise IrreversibleError(f"'{by}' would change {owner!r} for everybody; only instances are changed")
        before = _Place(owner, name)
        try:
            setattr(owner, name, value)
        except (AttributeError, TypeError, KeyError) as error:
            before.restore()
            raise IrreversibleError(f"'{by}' cannot set '{name}' of {type(owner).__name__}: {error}") from error
        if getattr(owner, name, _ABSENT) is not value:
            before.restore()
            raise IrreversibleError(
                f"'{by}' cannot set '{name}' of {type(owner).__name__}: it does not keep what it is given, so the "
                "change could not be undone"
            )
        self._entries.append(_Change(before, value, by))

    def on_undo(self, action: Callable[[], object], *, by: str) -> None:
        """Record a change that was made by other means: ``action`` takes it back (``handle.remove`` of a hook)."""
        self._entries.append(_Action(action, by))

    def adopt(self, patch: Patch[Any], *, by: str) -> None:
        """Take over a patch that is in place already: a deep copy of a patched object was born with it."""
        self._entries = [entry for entry in self._entries if entry.alive()]
        self._entries.append(_Patched(patch, by))

    def undo(self, *, by: str | None = None) -> None:
        """Undo every change, or those of one author, last first.

        All are tried; the first error leaves when the rest is undone.
        """
        self._undo(lambda entry: by is None or entry.by == by)

    def undo_on(self, owner: Any, *, by: str) -> None:
        """Undo the changes that one author made on one object, last first; those of others stay."""
        self._undo(lambda entry: entry.by == by and entry.owner is owner)

    def _undo(self, chosen: "Callable[[_Entry], bool]") -> None:
        errors: list[BaseException] = []
        for position in reversed(range(len(self._entries))):
            if not chosen(self._entries[position]):
                continue
            entry = self._entries.pop(position)
            try:
                if not entry.hand_over(self._entries[position:]):
                    entry.undo()
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]


class _Entry:
    by: str
    owner: Any = None

    def alive(self) -> bool:
        return True

    def hand_over(self, later: "list[_Entry]") -> bool:
        """Whether a later change covers this one, which then remembers what this one had found."""
        return False

    def undo(self) -> None:
        raise NotImplementedError


class _Place:
    """What stood at one name of one object: in which registry of a module, what, and what came after it."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.registry: str | None = None
        self.value: Any = _ABSENT
        self.followers: tuple[str, ...] = ()
        self.persistent = True
        if isinstance(owner, nn.Module):
            for registry in _REGISTRIES:
                kept = getattr(owner, registry)
                if name in kept:
                    self.registry, self.value = registry, kept[name]
                    keys = list(kept)
                    self.followers = tuple(keys[keys.index(name) + 1 :])
                    self.persistent = name not in owner._non_persistent_buffers_set
        if self.registry is None:
            self.value = vars(owner).get(name, _ABSENT) if hasattr(owner, "__dict__") else _ABSENT
            if self.value is _ABSENT and _is_data_descriptor(type(owner), name):
                self.value = getattr(owner, name, _ABSENT)

    def now(self) -> Any:
        """What stands there now."""
        place = _Place(self.owner, self.name)
        return place.value

    def restore(self) -> None:
        """Put back what stood there, at its place among the others."""
        owner, name = self.owner, self.name
        if self.now() is self.value:
            return
        if isinstance(owner, nn.Module):
            for registry in _REGISTRIES:
                if registry != self.registry:
                    getattr(owner, registry).pop(name, None)
            owner._non_persistent_buffers_set.discard(name)
        if self.registry is None:
            if self.value is not _ABSENT:
                setattr(owner, name, self.value)
            elif name in getattr(owner, "__dict__", {}) or _is_data_descriptor(type(owner), name):
                delattr(owner, name)
            return
        vars(owner).pop(name, None)
        kept = getattr(owner, self.registry)
        after = [key for key in self.followers if key in kept]
        moved = {key: kept.pop(key) for key in after} if name not in kept else {}
        kept[name] = self.value
        kept.update(moved)
        if self.registry == "_buffers" and not self.persistent:
            owner._non_persistent_buffers_set.add(name)


class _Change(_Entry):
    def __init__(self, before: _Place, value: Any, by: str) -> None:
        self.before, self.value, self.by = before, value, by
        self.owner = before.owner

    def hand_over(self, later: list[_Entry]) -> bool:
        for entry in later:
            if isinstance(entry, _Change) and entry.owner is self.owner and entry.before.name == self.before.name:
                entry.before = self.before
                return True
        return False

    def undo(self) -> None:
        if self.before.now() is self.value:  # else someone else has set it since: theirs now
            self.before.restore()


class _Action(_Entry):
    def __init__(self, action: Callable[[], object], by: str) -> None:
        self.action, self.by = action, by

    def undo(self) -> None:
        self.action()


class _Patched(_Entry):
    def __init__(self, patch: Patch[Any], by: str) -> None:
        self.patch, self.by = weakref.ref(patch), by

    @property
    def owner(self) -> Any:  # type: ignore[override]
        patch = self.patch()
        return None if patch is None else patch.owner

    def alive(self) -> bool:
        return self.patch() is not None

    def undo(self) -> None:
        patch = self.patch()
        if patch is not None:
            patch.remove()


_ABSENT = object()


def _is_data_descriptor(cls: type, name: str) -> bool:
    """Whether ``cls`` itself keeps the attribute: a property with a setter, or a slot."""
    found = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
    return hasattr(type(found), "__set__")
