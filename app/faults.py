"""Errors for people: what happened and what to do, in one sentence or two."""

from dit_accel.errors import DitAccelError, PlanMismatchError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out; on some devices torch says so in a ``RuntimeError`` of no class of its own."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY)


def in_words(error: BaseException) -> str:
    """What a visitor is told of an error: our own words, or that nobody foresaw it."""
    words = " ".join(str(error).split())[:300]
    if is_memory(error):
        return (
            "There was not enough memory. The model was let go, so the explorer goes on. Try a smaller model, fewer "
            "frames or search prompts, or another device (dit-accel app --device). "
            f"The machine said: {words or type(error).__name__}"
        )
    if isinstance(error, PlanMismatchError):
        return f"{error}. Choose the model that it was made for, or let Calibrate find a plan for this one."
    return str(error) if isinstance(error, DitAccelError) else f"{type(error).__name__}: {words}"
