"""How many rows each linear layer sees in a usual call of its denoiser: found on shapes, nothing is computed."""

import logging
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from dit_accel.families.pipeline import call_default, default_px_of, vae_scale_of
from dit_accel.families.targets import Target

logger = logging.getLogger("dit_accel")

BATCH = 2  # both guidance branches of one picture


def rows_of(target: Target, pipe: Any) -> dict[str, int]:
    """Rows of each linear layer and convolution, by path; empty where no call can be made up or run on shapes.

    Args:
        target: The denoiser.
        pipe: Its pipeline, whose call says how large pictures are by default; or what stands in for one.
    """
    rows: dict[str, int] = {}

    def watch(path: str) -> Any:
        def see(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor):
                channels = module.out_features if isinstance(module, nn.Linear) else module.out_channels
                rows[path] = rows.get(path, 0) + output.numel() // int(channels)  # type: ignore[arg-type]

        return see

    layers = [
        (path, each) for path, each in target.denoiser.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)
    ]
    handles = [layer.register_forward_hook(watch(path)) for path, layer in layers]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        inputs = usual_inputs(target, pipe)
        with mode, torch.no_grad():
            fake = tree_map(lambda x: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x, inputs)
            type(target.denoiser).forward(target.denoiser, **fake)
    except Exception as error:  # a model that reads values, or a size that does not fit: then nothing is known
        logger.debug("no usual call of '%s': %s", target.name, error)
        return {}
    finally:
        for handle in handles:
            handle.remove()
    return rows


def usual_inputs(target: Target, pipe: Any) -> dict[str, Any]:
    """Arguments of a call at the size that the pipeline draws by default.

    Raises:
        UnsupportedModelError: The family cannot make any.
    """
    scale = vae_scale_of(pipe, target.family)
    pixels = default_px_of(target.denoiser, target.family, scale)
    return target.family.sample_inputs(
        target.denoiser,
        height_px=call_default(pipe, "height") or pixels,
        width_px=call_default(pipe, "width") or pixels,
        num_frames=call_default(pipe, "num_frames") or target.family.default_frames,
        batch=BATCH,
        vae_scale=scale,
    )
