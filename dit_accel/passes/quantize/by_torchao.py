"""torchao as the one that multiplies: our weights in its tensor class, its kernels behind the linear function.

The weights are the same integers and scales, not copies. Activations are rounded by torchao, token by token on a grid
that has one point more below 0 than ours, so that sums agree to within rounding and not to the integer: it is used
where it is asked for (``backend="torchao"``), and is never among what ``"integers"`` chooses from.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from dit_accel.errors import MissingDependencyError

if TYPE_CHECKING:
    from dit_accel.passes.quantize.layer import QuantLinear


def require_torchao() -> None:
    """Refuse to go on without it.

    Raises:
        MissingDependencyError: It is not installed.
    """
    if find_spec("torchao") is None:
        raise MissingDependencyError.for_extra("torchao", "torchao", "multiplying quantised layers by torchao")


def fits_torchao(layer: "QuantLinear") -> bool:
    """Whether its dynamic int8 knows the grids of a layer: symmetric ones, a scale for each token.

    4-bit weights are: their groups' steps are whole multiples of a channel's, so that unpacked they are int8.
    """
    scheme = layer.scheme
    if scheme.floats or scheme.a_bits != 8 or not scheme.a_symmetric or scheme.granularity != "token":
        return False
    return scheme.w_symmetric or scheme.w_bits == 4


def by_torchao(layer: "QuantLinear", rows: Tensor) -> Tensor:
    """[M, N] in the dtype of ``rows`` [M, K]."""
    from torchao.quantization import PerRow
    from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor, QuantizeTensorToInt8Kwargs

    given = layer.prepared(rows).to(rows.dtype)
    weight = Int8Tensor(
        layer.weight_as_kept().integers(),
        layer.scale[:, None],
        [1, layer.in_features],
        given.dtype,
        zero_point=torch.zeros_like(layer.scale, dtype=torch.int8)[:, None],
        act_quant_kwargs=QuantizeTensorToInt8Kwargs(granularity=PerRow()),
    )
    out: Tensor = F.linear(given, weight, layer.bias)
    return out
