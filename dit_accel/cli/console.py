"""How the commands speak: results on stdout, everything else on stderr, errors in one line."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from dit_accel.errors import AccelerationWarning, DitAccelError

EXIT_FAILED = 1  # a check did not hold, or a bug
EXIT_BAD_INPUT = 2  # also what typer uses for a wrong option
EXIT_STOPPED = 130  # by Ctrl-C, as shells say it


def out() -> Console:
    """Where results go. Made anew each time, for the stream of the moment."""
    return Console(soft_wrap=True, highlight=False)


def err() -> Console:
    """Where people are spoken to."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def tell(message: str, *, style: str | None = None) -> None:
    """Say something to the person, on stderr."""
    err().print(message, style=style, markup=False)


def print_json(text: str) -> None:
    """Print JSON on stdout: as it is, never wrapped or coloured."""
    typer.echo(text)


class Commands(TyperGroup):
    """A group whose commands end a user's mistake with one line and exit code 2, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        with _warnings_in_words():
            try:
                return super().invoke(ctx)
            except DitAccelError as error:
                err().print(f"[bold red]error:[/] {_escaped(' '.join(str(error).split()))}")
                raise typer.Exit(EXIT_BAD_INPUT) from error


@contextmanager
def _warnings_in_words() -> Iterator[None]:
    with warnings.catch_warnings():
        plain = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, AccelerationWarning):
                err().print(f"[bold yellow]warning:[/] {_escaped(' '.join(str(message).split()))}")
            else:
                plain(message, category, *rest, **more)

        warnings.showwarning = show
        warnings.simplefilter("ignore", FutureWarning)  # of diffusers and torch, to their callers: us, not the user
        yield


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
