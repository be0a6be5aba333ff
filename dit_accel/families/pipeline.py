"""temporary until the families branch lands its own"""

from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.catalog import unwrapped


def find_denoisers(pipe):
    if isinstance(pipe, nn.Module):
        return (("denoiser", unwrapped(pipe)),)
    found = []
    for name in ("transformer", "transformer_2", "unet"):
        m = getattr(pipe, name, None)
        if isinstance(m, nn.Module):
            found.append((name, unwrapped(m)))
    if not found:
        raise UnsupportedModelError("no denoiser")
    return tuple(found)
