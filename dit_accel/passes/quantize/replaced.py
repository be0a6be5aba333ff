"""The quantised layers of one denoiser: made, put in place, and told where a run is."""

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target
from dit_accel.kernels.hadamard import block_for, rotate_blocks
from dit_accel.passes.quantize.affine import inverse_transformed
from dit_accel.passes.quantize.choice import check_scales, chosen_layers, full_name
from dit_accel.passes.quantize.components import EncoderLinear, component_of, layers_of_component
from dit_accel.passes.quantize.config import NAME, QuantizeConfig, scheme_of
from dit_accel.passes.quantize.conv import PARTS, QuantConv2d, SplitConv2d, skip_channels
from dit_accel.passes.quantize.layer import QuantLinear, Step
from dit_accel.passes.quantize.originals import Originals
from dit_accel.passes.quantize.roles import Found, Layer, layers_of
from dit_accel.passes.quantize.rows import rows_of
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.ways import Ways
from dit_accel.passes.quantize.weights import QuantWeight, quantise_weight
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.ledger import PatchLedger
from dit_accel.runtime.trees import Tree

SMALLEST_SHARE = 0.001  # of the products, to be spoken of


class Quantised:
    """The quantised layers of one denoiser, and what they are told of a run.

    Args:
        target: The denoiser.
        config: The plan.
        ledger: Undoes it.
        pipe: The pipeline, or what stands in for one.

    Attributes:
        denoiser: Itself.
        originals: What the layers stand for.
        layers: By name in plans.
        bytes_before: Of all weights and buffers of the denoiser, as it was.
        bytes_planned: What the widths of the plan come to, by arithmetic: without the scales.
        rows: M of each layer in a usual call, by path; empty where no call could be made up.
    """

    def __init__(self, target: Target, config: QuantizeConfig, ledger: PatchLedger, pipe: Any) -> None:
        self.config, self.denoiser = config, target.denoiser
        self.bytes_before = bytes_of(target.denoiser)
        self.rows = rows_of(target, pipe)
        self.macs = {
            layer.path: layer.layer.weight.numel() * self.rows.get(layer.path, 1) for layer in layers_of(target)
        }
        self.step, self.ways = Step(), Ways(config.backend)
        self.layers: dict[str, QuantLinear] = {}
        self.paths: dict[str, str] = {}
        self.originals = Originals(ledger, config.originals)
        # Registered first, so it is undone last: what the ledger itself could put back is back by then.
        for model in (target.denoiser, *(component_of(pipe, path) for path in config.components)):
            ledger.on_undo(partial(self.originals.put_back, model), by=NAME)
        joints = skip_channels(target.denoiser)
        made: dict[int, tuple[nn.Module, dict[str, QuantLinear]]] = {}
        for found, scheme in chosen_layers(target, config):
            name = full_name(target.name, found.path)
            at = joints.get(found.path.removesuffix(".base_layer"))
            layer, parts = made.get(id(found.layer)) or self._made(name, found.layer, scheme, at)
            made[id(found.layer)] = layer, parts
            self._place(found, layer, parts, ledger, is_exact=config.has_exact_steps)
            self.paths |= dict.fromkeys(parts, found.path)
        self.components = [component_of(pipe, path) for path in self._with_components(pipe, ledger)]
        self.bytes_planned = self._planned()
        self._time_ways()

    def _place(
        self, found: Found, layer: nn.Module, parts: dict[str, QuantLinear], ledger: PatchLedger, *, is_exact: bool
    ) -> None:
        ledger.set(found.parent, found.name, layer, by=NAME)
        self.originals.take(found.layer, layer, tuple(parts.values()), is_exact=is_exact)
        self.layers |= parts

    def _with_components(self, pipe: Any, ledger: PatchLedger) -> list[str]:
        """Quantise what lies beside the denoisers; a second one finds it done. Returns the parts that were changed."""
        done = []
        never = Step()  # exact steps are a denoiser's
        for path, text in self.config.components.items():
            scheme = scheme_of(text)
            size = bytes_of(component_of(pipe, path))
            for name, found in list(layers_of_component(pipe, path)) if scheme is not None else []:
                assert scheme is not None
                part = self._part(name, found.layer, found.layer.weight.detach().flatten(1), scheme, with_bias=True)
                part.step = never
                self._place(found, part, {name: part}, ledger, is_exact=False)
                if path not in done:
                    done.append(path)
                    self.bytes_before += size
        return done

    @property
    def follows_steps(self) -> bool:
        """Whether the layers have to be told where a run is."""
        return self.config.has_exact_steps or any(layer.act_scale is not None for layer in self.layers.values())

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Tell the layers where the run is."""
        steps = call.run.num_steps
        self.step.exact = self.config.is_exact(call.step, steps)
        self.step.bin = call.step * self._bins // steps
        try:
            return inner(call)
        finally:
            self.step.exact = False

    @property
    def _bins(self) -> int:
        sizes = [len(layer.act_scale) for layer in self.layers.values() if layer.act_scale is not None]
        return max(sizes, default=1)

    def _made(
        self, name: str, original: Layer, scheme: QuantScheme, at: int | None
    ) -> tuple[nn.Module, dict[str, QuantLinear]]:
        """What takes the place of a layer, and the parts of it that multiply, by name."""
        weight = original.weight.detach()
        if not isinstance(original, nn.Conv2d) or at is None:
            part = self._part(name, original, weight.flatten(1), scheme, with_bias=True)
            return part, {name: part}
        names = [f"{name}.{part}" for part in PARTS]
        halves = weight[:, :at].flatten(1), weight[:, at:].flatten(1)
        stream = self._part(names[0], original, halves[0], scheme, with_bias=True)
        skip = self._part(names[1], original, halves[1], scheme, with_bias=False)
        assert isinstance(stream, QuantConv2d) and isinstance(skip, QuantConv2d)
        return SplitConv2d(original, (stream, skip), at), dict(zip(names, (stream, skip), strict=True))

    def _part(
        self, name: str, original: Layer, matrix: Tensor, scheme: QuantScheme, *, with_bias: bool
    ) -> QuantLinear:
        check_scales(name, scheme, self.config)
        smooth = self.config.of_layer(name, "inverse_smooth")
        left, right = (self.config.of_layer(name, side) for side in ("left", "right"))
        affine = (left, right) if scheme.flat and left is not None and right is not None else None
        try:
            weight = stored_weight(name, matrix, scheme, self.config)
            if weight is None:
                weight = quantise_weight(turned(matrix, scheme, smooth, affine), scheme)
        except ConfigError as error:
            raise ConfigError(f"'{NAME}' cannot round '{name}': {error}") from error
        beside = any(name.startswith(f"{path}.") for path in self.config.components)
        linear = EncoderLinear if beside else QuantLinear
        make: type[QuantLinear] = QuantConv2d if isinstance(original, nn.Conv2d) else linear
        layer = make(
            original,
            weight.scaled(self.config.of_layer(name, "gain")),
            scheme,
            self.step,
            inverse_smooth=smooth,
            affine=affine,
            act_scale=self.config.of_layer(name, "act_scale"),
            with_bias=with_bias,
        )
        bias = self.config.of_layer(name, "bias")
        if bias is not None:
            layer.bias = nn.Parameter(bias.to(original.weight), requires_grad=False)
        layer.way = self.ways
        return layer

    def _time_ways(self) -> None:
        """Choose the way of every shape of a usual call now, not in the first run."""
        for name, layer in self.layers.items():
            own, most = layer.values.device, torch.device("cuda" if torch.cuda.is_available() else "cpu")
            ready = self.ways.prepare(layer, [own] if own.type == most.type else [own, most])
            rows = self.rows.get(self.paths.get(name, ""))
            if rows is not None and own in ready and own.type != "meta":
                dtype = next((p.dtype for p in self.denoiser.parameters()), torch.float32)
                self.ways.choice(layer, torch.empty(rows, layer.in_features, dtype=dtype, device=layer.values.device))

    def _planned(self) -> float:
        planned: float = self.bytes_before
        for layer in {id(each): each for each in self.layers.values()}.values():
            numbers = layer.in_features * layer.out_features
            planned += numbers * layer.scheme.weight_bits() / 8
            if layer.original is not None and not self.config.has_exact_steps:
                planned -= numbers * layer.original.weight.element_size()
        return planned

    @property
    def keeps_beside(self) -> bool:
        """Whether weights as they were are still in the memory that the quantised ones are in."""
        pairs = [(layer.original, layer.values.device) for layer in self.layers.values()]
        return any(original is not None and original.weight.device == device for original, device in pairs)

    def bytes_now(self) -> int:
        """Bytes of the denoiser now, with what exact steps hold on to."""
        now = bytes_of(self.denoiser) + sum(bytes_of(component) for component in self.components)
        if self.config.has_exact_steps:
            each = {id(layer.original): layer.original for layer in self.layers.values() if layer.original is not None}
            now += sum(original.weight.nbytes for original in each.values())
        return now

    def shares(self, num_steps: int) -> dict[str, float]:
        """Share of the multiplications by weights that is done in each width; without rows, of the weights."""
        exact = sum(self.config.is_exact(step, num_steps) for step in range(num_steps)) / num_steps
        widths: dict[str, float] = defaultdict(float)
        of_path = {path: self.layers[name].scheme.width for name, path in self.paths.items()}
        for path, macs in self.macs.items():
            width = of_path.get(path)
            if width is None:
                widths["full"] += macs
            else:
                widths[width] += macs * (1 - exact)
                widths["full"] += macs * exact
        total = sum(widths.values()) or 1
        return {width: count / total for width, count in sorted(widths.items()) if count / total >= SMALLEST_SHARE}


def turned(
    weight: Tensor, scheme: QuantScheme, inverse_smooth: Tensor | None, affine: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """A weight [N, K] for smoothed, transformed and rotated inputs, fp32; the product stays what it was."""
    weight = weight.float()
    if inverse_smooth is not None:
        weight = weight / inverse_smooth.to(weight.device)
    if affine is not None:
        weight = inverse_transformed(weight, *(side.to(weight) for side in affine))
    return rotate_blocks(weight, block_for(weight.shape[1])) if scheme.rotate else weight


def stored_weight(name: str, matrix: Tensor, scheme: QuantScheme, config: QuantizeConfig) -> QuantWeight | None:
    """The weight in few bits that a plan brings along, if it does.

    Raises:
        ConfigError: It is of another shape.
    """
    values, scale = config.of_layer(name, "values"), config.of_layer(name, "scale")
    if values is None or scale is None:
        return None
    outputs, size = matrix.shape
    wanted = (outputs, -(-size // 2) if scheme.w_bits == 4 else size)
    if tuple(values.shape) != wanted or tuple(scale.shape) != (outputs,):
        raise ConfigError(f"what is stored is {list(values.shape)}, and {scheme} of this layer takes {list(wanted)}")
    multiplier, zero = config.of_layer(name, "multiplier"), config.of_layer(name, "zero")
    steps = (outputs, -(-size // (scheme.group or size))) if scheme.w_bits == 4 else None
    points = steps or (None if scheme.w_symmetric else (outputs,))
    for what, tensor, shape in (("multiplier", multiplier, steps), ("zero", zero, points)):
        if shape != (None if tensor is None else tuple(tensor.shape)):
            given = "nothing" if tensor is None else list(tensor.shape)
            takes = "none" if shape is None else list(shape)
            raise ConfigError(f"what is stored as its {what} is {given}, and {scheme} of this layer takes {takes}")
    return QuantWeight(
        values=values,
        scale=scale,
        multiplier=multiplier,
        zero=zero,
        in_features=size,
        group=scheme.group or size,
    )


def bytes_of(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
