"""Tiny random models and pipelines of every family: ``from tiny import tiny_model, tiny_pipeline``."""

from tiny_configs import TEXT_TOKENS
from tiny_models import DISCOVERED_NAMES, TINY_NAMES, tiny_inputs, tiny_model
from tiny_pipelines import TINY_PIPELINE_NAMES, tiny_call, tiny_pipeline

__all__ = [
    "DISCOVERED_NAMES",
    "TEXT_TOKENS",
    "TINY_NAMES",
    "TINY_PIPELINE_NAMES",
    "tiny_call",
    "tiny_inputs",
    "tiny_model",
    "tiny_pipeline",
]
