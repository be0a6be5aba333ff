"""Callables put in place of one instance's methods, underneath every hook, and taken out again without a trace."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Patch(Generic[T]):
    """A callable put in place of a method of one instance.

    It looks like what it replaces (``inspect.signature`` follows it), and it survives ``copy.deepcopy`` and pickling
    of its owner: the copy gets :meth:`rebound` instead of a method that would act on the original.

    It takes the innermost place. Where others have wrapped the method before us (accelerate's offload hooks,
    diffusers' hooks), ours goes underneath theirs, so that their removal, which pipelines with model offload do after
    every call, does not take ours away with it.

    Args:
        owner: The instance whose method this replaces.
        name: The method's name.
    """

    def __init__(self, owner: T, name: str) -> None:
        self.owner = owner
        self.name = name
        self.holder, self.slot = _innermost(owner, name)
        self.original: Callable[..., Any] = getattr(self.holder, self.slot)
        self.was_own = self.slot in vars(self.holder)
        self.__wrapped__ = self.original
        self.__name__ = name
        self.__doc__ = getattr(self.original, "__doc__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def rebound(self, copy: T) -> Callable[..., Any]:
        """What a deep copy of the owner gets as this method: by default its class's own."""
        return _class_method(copy, self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        return self.rebound(memo.get(id(self.owner), self.owner))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_class_method, (self.owner, self.name))

    def in_place(self) -> bool:
        """Whether this still stands in the way of calls to the method."""
        return any(self is patch for _, _, patch in _seats(self.owner, self.name)) or any(
            self is patch for patch in patches_on(self.owner, self.name)
        )

    def remove(self) -> None:
        """Take this out, wherever it now stands: on top, or underneath what others have put over it."""
        for holder, slot, patch in tuple(_seats(self.owner, self.name)):
            if patch is not self:
                continue
            if holder is self.owner and slot == self.name and not self.was_own:
                delattr(holder, slot)
            else:
                setattr(holder, slot, self.original)
            wrapper = vars(self.owner).get(self.name)
            if getattr(wrapper, "__wrapped__", None) is self:
                wrapper.__wrapped__ = self.original  # type: ignore[union-attr]
        for above in patches_on(self.owner, self.name):
            if above.original is self:
                above.original = above.__wrapped__ = self.original
                above.was_own = self.was_own


def patches_on(owner: Any, name: str) -> Iterator[Patch[Any]]:
    """Our patches of a method of ``owner``, outermost first, others' wrappers looked through."""
    for _, _, value in tuple(_seats(owner, name)):
        while isinstance(value, Patch):
            yield value
            value = value.original


def _seats(owner: Any, name: str) -> Iterator[tuple[Any, str, Any]]:
    """Where a method can sit, outermost first: the instance, accelerate's ``_old_forward``, diffusers' hook chain."""
    own = vars(owner)
    yield owner, name, own.get(name)
    if name == "forward":
        yield owner, "_old_forward", own.get("_old_forward")
        for reference in getattr(own.get("_diffusers_hook"), "_fn_refs", ()):
            for slot in ("forward", "original_forward"):
                yield reference, slot, getattr(reference, slot, None)


def _innermost(owner: Any, name: str) -> tuple[Any, str]:
    """The seat of the bound method itself, below every hook; the instance when a hook of unknown make is over it."""
    for holder, slot, value in _seats(owner, name):
        if value is not None and (isinstance(value, Patch) or getattr(value, "__self__", None) is owner):
            return holder, slot
    return owner, name


def _class_method(owner: Any, name: str) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(type(owner), name).__get__(owner)
    return method
