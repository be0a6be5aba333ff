"""How many rows each linear layer sees in a usual call of its denoiser: found on shapes, nothing is computed."""

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.base import config_of
from dit_accel.families.targets import Target

BATCH = 2  # both guidance branches of one picture


def rows_of(target: Target) -> dict[str, int]:
    """Rows of each linear layer and convolution, by path; empty where no call can be made up or run on shapes."""
    model, family = target.denoiser, target.family
    rows: dict[str, int] = {}
    handles = []

    def watch(path: str) -> Any:
        def see(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor):
                channels = module.out_features if isinstance(module, nn.Linear) else module.out_channels
                rows[path] = rows.get(path, 0) + output.numel() // int(channels)

        return see

    try:
        inputs = usual_inputs(target)
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                handles.append(module.register_forward_hook(watch(path)))
        with mode, torch.no_grad():
            fake = tree_map(lambda x: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x, inputs)
            type(model).forward(model, **fake)
    except UnsupportedModelError:
        return {}
    except Exception:
        # Some models read values, which a shape has not; what is not known then is said to be not known.
        return {}
    finally:
        for handle in handles:
            handle.remove()
    del family
    return rows


def usual_inputs(target: Target) -> dict[str, Any]:
    """Arguments of a call at the size that the model's config names, else at its family's.

    Raises:
        UnsupportedModelError: The family cannot make any.
    """
    family, config = target.family, config_of(target.denoiser)
    size = config.get("sample_size")
    scale = family.vae_scale[1]
    height, width = (size, size) if isinstance(size, int) else size if isinstance(size, list | tuple) else (None, None)
    pixels = (family.default_px, family.default_px) if height is None else (int(height) * scale, int(width) * scale)
    return family.sample_inputs(
        target.denoiser,
        height_px=pixels[0],
        width_px=pixels[1],
        num_frames=family.default_frames,
        batch=BATCH,
    )
