"""Loads the pipeline that the options ask for."""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_TRUNCATED, _SHOWN_CHARS = "input was truncated", 240


class TruncationOnce(logging.Filter):
    """Lets diffusers say once, and shortly, that a prompt is longer than its encoder reads.

    It says so for each batch that holds such a prompt, with what was cut off of every prompt of the batch, padding and
    all: pages of it, where lists of prompts are drawn.
    """

    said = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown; shortens it."""
        text = record.getMessage()
        if _TRUNCATED not in text:
            return True
        if self.said:
            return False
        self.said = True
        short = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} ..."
        record.msg, record.args = f"{short} (said once, for the first of such prompts)", None
        return True


def load_for_cli(model: str, device: str, dtype: str) -> "DiffusionPipeline":
    """Load a pipeline on a device, with its progress bar off.

    Raises:
        ConfigError: No such pipeline, device or dtype.
    """
    from dit_accel.pipelines.loading import load_pipeline, pick_device

    hush_loading()
    place = pick_device(device)
    wanted = ("bfloat16" if place.type == "cuda" else "float32") if dtype == "auto" else dtype
    pipe = load_pipeline(model, dtype=wanted, device=place)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def hush_loading() -> None:
    """No bars for reading files, though those of downloads stay; and cut prompts are told once."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    for handler in logging.getLogger("diffusers").handlers:
        if not any(isinstance(each, TruncationOnce) for each in handler.filters):
            handler.addFilter(TruncationOnce())
