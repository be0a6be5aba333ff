"""One small registry for everything that is looked up by name or type."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from dit_accel.errors import ConfigError, did_you_mean

V = TypeVar("V")


class Registry(Generic[V]):
    """Names to values, with an error that names the nearest known name.

    Args:
        noun: What is registered, as it reads in a message: ``"preset"``.
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._values: dict[str, V] = {}

    def register(self, name: str) -> Callable[[V], V]:
        """Decorator: keep the decorated value under ``name``.

        Raises:
            ConfigError: The name is taken.
        """

        def keep(value: V) -> V:
            if name in self._values:
                raise ConfigError(f"{self.noun} '{name}' is already registered")
            self._values[name] = value
            return value

        return keep

    @contextmanager
    def temporarily(self, name: str, value: V) -> Iterator[V]:
        """Within a ``with`` block ``name`` is ``value``, whatever it was before and will be again."""
        before = self._values.copy()
        self._values[name] = value
        try:
            yield value
        finally:
            self._values = before

    def get(self, name: str) -> V:
        """The value called ``name``.

        Raises:
            ConfigError: There is none; the message lists what there is.
        """
        if name not in self._values:
            known = ", ".join(self._values)
            raise ConfigError(f"unknown {self.noun} '{name}'.{did_you_mean(name, self._values)} Known: {known}.")
        return self._values[name]

    def names(self, pattern: str = "*") -> tuple[str, ...]:
        """Names that match a shell-style pattern, in order of registration."""
        return tuple(name for name in self._values if fnmatchcase(name, pattern))

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values
