"""Loads the pipeline that the options ask for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


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
    """No bars for reading files; those of downloads stay."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
