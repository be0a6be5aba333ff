"""What a choice of widths takes: as many bytes as the layers that are made of it, without making them."""

from collections.abc import Collection, Sequence

from torch import nn

from dit_accel.calibration.quant_fit import LayerFit
from dit_accel.families.targets import Target
from dit_accel.passes.quantize.choice import Chosen, chosen_layers, full_name
from dit_accel.passes.quantize.config import QuantizeConfig
from dit_accel.passes.quantize.conv import skip_channels
from dit_accel.passes.quantize.scheme import QuantScheme


def bytes_of_fit(fit: LayerFit, layer: nn.Linear) -> int:
    """Of a fitted layer, in place of its weight; a bias counts where there was none."""
    found: int = fit.weight.nbytes + _bytes_of_sums(fit.scheme, layer.out_features)
    sides = () if fit.affine is None else (fit.affine.left, fit.affine.right)
    found += sum(4 * each.numel() for each in (fit.inverse_smooth, fit.act_scale, *sides) if each is not None)
    if fit.bias is not None and layer.bias is None:
        found += fit.bias.numel() * layer.weight.element_size()
    return found


def bytes_saved_apart(targets: Sequence[Target], inside: Collection[str], config: QuantizeConfig) -> int:
    """By the layers that no budget is about: modulation, and convolutions, each in its width.

    Args:
        targets: The denoisers.
        inside: Names of the layers that a budget is about.
        config: Says the widths.
    """
    saved = 0
    for target in targets:
        joints = skip_channels(target.denoiser)
        for found, scheme in _once(chosen_layers(target, config)):
            if full_name(target.name, found.path) in inside:
                continue
            weight = found.layer.weight
            at = joints.get(found.path.removesuffix(".base_layer"))
            window = weight[0, 0].numel() if weight.dim() == 4 else 1
            columns = [found.columns] if at is None else [at * window, found.columns - at * window]
            saved += weight.nbytes - sum(_bytes_rounded(scheme, len(weight), size) for size in columns)
    return saved


def bytes_of_exact(targets: Sequence[Target], config: QuantizeConfig) -> int:
    """Of the weights as they were that exact steps keep in memory; 0 without such steps."""
    if not config.has_exact_steps:
        return 0
    layers = [found.layer for target in targets for found, _ in _once(chosen_layers(target, config))]
    return sum(layer.weight.nbytes for layer in layers)


def _once(chosen: Sequence[Chosen]) -> list[Chosen]:
    """Without the other places of a layer that stands at several."""
    return list({id(found.layer): (found, scheme) for found, scheme in reversed(chosen)}.values())


def _bytes_rounded(scheme: QuantScheme, outputs: int, columns: int) -> int:
    found = 4 * outputs + _bytes_of_sums(scheme, outputs)
    if scheme.w_bits == 4:
        groups = -(-columns // (scheme.group or columns))
        return found + outputs * (-(-columns // 2) + 2 * groups)
    return found + outputs * (columns + (0 if scheme.w_symmetric else 4))


def _bytes_of_sums(scheme: QuantScheme, outputs: int) -> int:
    """Of the columns' sums, by which zero points of activations are taken off."""
    return 0 if scheme.a_symmetric else 4 * outputs
