"""What the tests of encoder propagation share."""

from dataclasses import replace
from typing import Any

import torch
from tiny import tiny_call

from dit_accel import EncoderPropagationConfig, summary
from dit_accel.families.pipeline import find_denoisers

STEPS = 8
KEYS = EncoderPropagationConfig(key_steps=(0, 1, 4), num_steps=STEPS)
SERIAL = replace(KEYS, max_parallel=1)
NAMES = ["sd", "sdxl", "pixart", "dit"]


def run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    first = pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more}))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


def assert_near(one: torch.Tensor, other: torch.Tensor) -> None:
    """Equal but for rounding, of which guidance and eight steps of random weights make more."""
    assert (one - other).abs().max() < 1e-3 * other.abs().max()


def effect(pipe: Any) -> Any:
    return summary(pipe).denoisers[0].effects["encoder_propagation"]


class Counter:
    """Items that modules of a denoiser were called with, call by call; put on before acceleration."""

    def __init__(self, pipe: Any, *paths: str) -> None:
        denoiser = find_denoisers(pipe)[0][1]
        self.items: dict[str, list[int]] = {path: [] for path in paths}
        for path in paths:
            module = denoiser.get_submodule(path)
            original = module.forward

            def forward(*args: Any, path: str = path, original: Any = original, **kwargs: Any) -> Any:
                first = args[0] if args else next(iter(kwargs.values()))
                self.items[path].append(len(first))
                return original(*args, **kwargs)

            module.forward = forward
