"""Numbers that may be left out, as they are typed: gradio's own field cannot be empty, it says 0 then."""

from typing import Any

import gradio as gr

from dit_accel.errors import ConfigError

OWN = "default"


def optional_field(label: str, elem_id: str, placeholder: str = OWN) -> gr.Textbox:
    """A field for a number that may stay empty."""
    return gr.Textbox("", label=label, placeholder=placeholder, max_length=12, min_width=90, elem_id=elem_id)


def number_in(text: Any, name: str, low: float, high: float) -> float | None:
    """The number that was typed; ``None``: the field is empty.

    Raises:
        ConfigError: It is no number, or out of range.
    """
    words = str(text or "").strip()
    if not words:
        return None
    try:
        value = float(words)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ConfigError(f"{name} is a number from {low:g} to {high:g}, or empty; got '{words}'")
    return value


def whole_in(text: Any, name: str, low: int, high: int) -> int | None:
    """The same for whole numbers."""
    value = number_in(text, name, low, high)
    if value is not None and value != int(value):
        raise ConfigError(f"{name} is a whole number, or empty; got '{text}'")
    return None if value is None else int(value)
