"""Times as people write them."""

from dit_accel.errors import ConfigError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """Seconds of ``90s``, ``20m`` or ``2h``.

    Raises:
        ConfigError: It is none of these.
    """
    try:
        value = float(text[:-1]) * UNITS[text[-1:]]
    except (KeyError, ValueError):
        value = -1.0
    if value <= 0:
        raise ConfigError(f"'{text}' is no time; write 90s, 20m or 2h")
    return value
