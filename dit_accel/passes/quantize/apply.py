"""Post-training quantisation: linear layers on integers, weights of 4 or 8 bits, activations scaled token by token.

ViDiT-Q (Zhao et al., arXiv 2406.02540), MixDQ (arXiv 2405.17873) and, for weights in groups, QServe (2405.04532).
Departures: a scale for each token of each sample, where the published simulation shares one over the batch; weights in
groups have whole steps, so that 4-bit weights are multiplied as int8 without sums for each group.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn

from dit_accel.errors import ConfigError
from dit_accel.families.targets import Target
from dit_accel.kernels.hadamard import block_for, rotate_blocks
from dit_accel.passes.base import Pass, register_pass
from dit_accel.passes.quantize.choice import check_scales, chosen_layers, full_name, unmatched
from dit_accel.passes.quantize.config import NAME, WEIGHT, QuantizeConfig
from dit_accel.passes.quantize.layer import QuantLinear, Step
from dit_accel.passes.quantize.originals import Originals
from dit_accel.passes.quantize.roles import is_plain, layers_of
from dit_accel.passes.quantize.rows import rows_of
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.ways import Ways
from dit_accel.passes.quantize.weights import QuantWeight, quantise_weight
from dit_accel.runtime.call import Call, Effect, Inner
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree

USUAL_STEPS = 20  # for what is said of exact steps before a run


class Quantised:
    """The quantised layers of one denoiser, and what they are told of a run.

    Args:
        runtime: Of the denoiser.
        config: The plan.

    Attributes:
        layers: By name in plans.
        bytes_before: Of all weights and buffers of the denoiser, as it was.
        rows: M of each layer in a usual call, by path; empty where no call could be made up.
    """

    def __init__(self, runtime: DenoiserRuntime, config: QuantizeConfig) -> None:
        self.config, self.runtime = config, runtime
        target = runtime.target
        self.bytes_before = bytes_of(target.denoiser)
        self.rows = rows_of(target, runtime.clock.owner)
        self.macs = {
            layer.path: layer.layer.weight.numel() * self.rows.get(layer.path, 1) for layer in layers_of(target)
        }
        self.step, self.ways = Step(), Ways(config.backend)
        self.layers: dict[str, QuantLinear] = {}
        self.paths: dict[str, str] = {}
        originals = Originals(runtime, config.originals)
        made: dict[int, QuantLinear] = {}
        for found, scheme in chosen_layers(target, config):
            name = full_name(target.name, found.path)
            check_scales(name, scheme, config)
            assert isinstance(found.layer, nn.Linear)
            layer = made.get(id(found.layer)) or self._made(name, found.layer, scheme)
            made[id(found.layer)] = layer
            runtime.ledger.set(found.parent, found.name, layer, by=NAME)
            originals.take(found.layer, layer)
            self.layers[name], self.paths[name] = layer, found.path
        if config.has_exact_steps or any(layer.act_scale is not None for layer in self.layers.values()):
            runtime.around(self, order=90, by=NAME)
        self._time_ways()

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

    def _made(self, name: str, original: nn.Linear, scheme: QuantScheme) -> QuantLinear:
        smooth = self.config.of_layer(name, "inverse_smooth")
        try:
            weight = stored_weight(name, original, scheme, self.config)
            if weight is None:
                weight = quantise_weight(turned(original.weight.detach(), scheme, smooth), scheme)
        except ConfigError as error:
            raise ConfigError(f"'{NAME}' cannot round '{name}': {error}") from error
        layer = QuantLinear(
            original,
            weight,
            scheme,
            self.step,
            inverse_smooth=smooth,
            act_scale=self.config.of_layer(name, "act_scale"),
        )
        bias = self.config.of_layer(name, "bias")
        if bias is not None:
            layer.bias = nn.Parameter(bias.to(original.weight), requires_grad=False)
        layer.way = self.ways
        return layer

    def _time_ways(self) -> None:
        """Choose the way of every shape of a usual call now, not in the first run."""
        for name, layer in self.layers.items():
            for device in {layer.values.device.type, "cuda" if torch.cuda.is_available() else "cpu"}:
                self.ways.prepare(layer, torch.device(device))
            rows = self.rows.get(self.paths[name])
            if rows is not None and layer.values.device.type != "meta":
                dtype = next((p.dtype for p in self.runtime.target.denoiser.parameters()), torch.float32)
                self.ways.choice(layer, torch.empty(rows, layer.in_features, dtype=dtype, device=layer.values.device))

    def bytes_now(self) -> int:
        """Bytes of the denoiser now, with what exact steps hold on to."""
        now = bytes_of(self.runtime.target.denoiser)
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
        return {width: count / total for width, count in sorted(widths.items()) if count}


def turned(weight: Tensor, scheme: QuantScheme, inverse_smooth: Tensor | None) -> Tensor:
    """A weight [N, K] for smoothed and rotated inputs, fp32; the product stays what it was."""
    weight = weight.float()
    if inverse_smooth is not None:
        weight = weight / inverse_smooth.to(weight.device)
    return rotate_blocks(weight, block_for(weight.shape[1])) if scheme.rotate else weight


def stored_weight(name: str, original: nn.Linear, scheme: QuantScheme, config: QuantizeConfig) -> QuantWeight | None:
    """The weight in few bits that a plan brings along, if it does.

    Raises:
        ConfigError: It is of another shape.
    """
    values, scale = config.of_layer(name, "values"), config.of_layer(name, "scale")
    if values is None or scale is None:
        return None
    outputs, size = original.weight.shape
    wanted = (outputs, -(-size // 2) if scheme.w_bits == 4 else size)
    if tuple(values.shape) != wanted or tuple(scale.shape) != (outputs,):
        raise ConfigError(f"what is stored is {list(values.shape)}, and {scheme} of this layer takes {list(wanted)}")
    return QuantWeight(
        values=values,
        scale=scale,
        multiplier=config.of_layer(name, "multiplier"),
        zero=config.of_layer(name, "zero"),
        in_features=size,
        group=scheme.group or size,
    )


def weights_to_store(runtime: DenoiserRuntime) -> dict[str, Tensor]:
    """The weights in few bits of a quantised denoiser, as ``stored`` of a config takes them."""
    found = {}
    for name, layer in quantised_of(runtime).layers.items():
        weight = layer.weight_as_kept()
        for what in WEIGHT:
            tensor = getattr(weight, what)
            if tensor is not None:
                found[f"{name}.{what}"] = tensor.detach().cpu().clone()
    return found


def bytes_of(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def quantised_of(runtime: DenoiserRuntime) -> Quantised:
    """What this pass made of a denoiser that it was applied to."""
    found = runtime.books[NAME]
    assert isinstance(found, Quantised)
    return found


def apply_quantize(runtime: DenoiserRuntime, config: QuantizeConfig) -> None:
    """Replace the layers of one denoiser."""
    runtime.books[NAME] = Quantised(runtime, config)


def effect_of_quantize(runtime: DenoiserRuntime, config: QuantizeConfig) -> Effect:
    """Bytes that the denoiser no longer takes, and who does which share of the products."""
    quantised = quantised_of(runtime)
    steps = runtime.stats.num_steps if runtime.stats.calls else USUAL_STEPS
    shares = ", ".join(f"{share:.0%} {width}" for width, share in quantised.shares(steps).items())
    before = quantised.bytes_before
    planned = max(0.0, 1 - planned_bytes(quantised) / before)
    actual = max(0.0, 1 - quantised.bytes_now() / before)
    return Effect(
        what=f"weight bytes saved (products: {shares})",
        planned_frac=planned,
        actual_frac=actual if runtime.stats.calls else None,
        total=before,
    )


def planned_bytes(quantised: Quantised) -> float:
    """What the widths of a plan come to, by arithmetic: without the scales."""
    before: float = quantised.bytes_before
    for layer in {id(each): each for each in quantised.layers.values()}.values():
        numbers = layer.in_features * layer.out_features
        size = layer.original.weight.element_size() if layer.original is not None else 0
        before += numbers * layer.scheme.weight_bits() / 8
        before -= 0 if quantised.config.has_exact_steps else numbers * size
    return before


def _obstacles(target: Target, config: QuantizeConfig) -> list[str]:
    chosen = chosen_layers(target, config)
    if not chosen:
        return ["no layer of it is to be quantised"]
    names = [full_name(target.name, layer.path) for layer in layers_of(target)]
    lost = unmatched(config, names)
    if lost is not None and not _of_another(lost, target, config):
        return [lost]
    found = []
    strange = [layer.path for layer, _ in chosen if not is_plain(layer.layer)]
    if strange:
        found.append(
            f"{len(strange)} of its layers have weights that are offloaded or quantised already ('{strange[0]}'): "
            "apply it first, then offload"
        )
    convs = [layer.path for layer, _ in chosen if isinstance(layer.layer, nn.Conv2d)]
    if convs:
        found.append(f"convolutions are not quantised ('{convs[0]}')")
    if any(len(getattr(module, "lora_magnitude_vector", ())) for module in target.denoiser.modules()):
        found.append("it has DoRA adapters, which read the weights in every call: fuse them first (pipe.fuse_lora())")
    if _freezing():
        found.append(
            "torch._inductor.config.freezing is on: it rewrites products of integers into a path that is thousands of "
            "times slower on CPUs without AMX; set it to False"
        )
    return found


def _of_another(lost: str, target: Target, config: QuantizeConfig) -> bool:
    """Whether what has no match here is of a second denoiser, whose names begin otherwise."""
    named = {pattern.partition(".")[0] for pattern in (*config.layers, *config.stored)}
    return bool(named - {target.name}) and not any(c in name for name in named for c in "*?[")


def _freezing() -> bool:
    import sys

    inductor = sys.modules.get("torch._inductor.config")
    return bool(getattr(inductor, "freezing", False))


register_pass(
    Pass(
        config=QuantizeConfig,
        summary="computes linear layers with weights and activations of 4 or 8 bits",
        phase="weights",
        claims=frozenset(("changes the weights",)),
        obstacles=_obstacles,
        example=QuantizeConfig,
        apply=apply_quantize,
        effect=effect_of_quantize,
        irreversible=lambda config: config.originals == "drop",
    )
)
