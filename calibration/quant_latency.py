"""What each layer takes in each width, on this machine: the other budget."""

from collections.abc import Mapping

import torch
from torch import nn

from dit_accel.calibration.quant_fit import LayerFit
from dit_accel.calibration.quant_gram import Place, layer_of
from dit_accel.passes.quantize.roles import Found
from dit_accel.passes.quantize.scheme import PLAIN
from dit_accel.passes.quantize.ways import INTEGERS, MOST_ROWS, Ways, seconds

UNKNOWN_ROWS = 1024  # where no usual call could be made up


def layer_seconds(
    layers: Mapping[str, Found], fits: Mapping[Place, LayerFit], rows: Mapping[str, int]
) -> dict[Place, float]:
    """Seconds of one call of each layer in each width and in full, the least of a few.

    Args:
        layers: By name in plans.
        fits: Each layer in each width.
        rows: Rows that each layer sees in a usual call, by name; beyond :data:`MOST_ROWS` time grows with them.
    """
    found: dict[Place, float] = {}
    timed: dict[tuple[int, int, int, str], float] = {}
    ways = Ways(INTEGERS)
    places = [*fits, *((name, PLAIN) for name in layers)]
    for name, scheme in places:
        layer = layers[name].layer
        assert isinstance(layer, nn.Linear)
        count = rows.get(name, UNKNOWN_ROWS)
        timed_rows = min(count, MOST_ROWS)
        module: nn.Module = layer if scheme == PLAIN else layer_of(layers[name], fits[name, scheme], ways)
        own = scheme if scheme == PLAIN else str(fits[name, scheme].scheme)
        key = (timed_rows, layer.in_features, layer.out_features, own)
        if key not in timed:
            draw = torch.Generator().manual_seed(0)
            x = torch.randn(timed_rows, layer.in_features, generator=draw).to(layer.weight)
            with torch.no_grad():
                timed[key] = seconds(lambda module=module, x=x: module(x), x.device)  # type: ignore[misc]
        found[name, scheme] = timed[key] * count / timed_rows
    return found
