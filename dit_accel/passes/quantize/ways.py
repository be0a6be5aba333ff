"""Which way a layer multiplies: timed when a plan is applied, for each shape, against the plain layer."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.passes.quantize.by_torchao import by_torchao, fits_torchao, require_torchao
from dit_accel.passes.quantize.layer import QuantLinear, dequantise, on_integers, quantise_floats, reference
from dit_accel.passes.quantize.products import CHUNK, FEWEST_ROWS, PRODUCTS, is_exact, usual_products

logger = logging.getLogger("dit_accel")

Way = Callable[[QuantLinear, Tensor], Tensor]

WORTH_IT = 1.05  # times as fast as the weight multiplied out, or integers are not worth their rounding
REPEATS = 5
MOST_ROWS = 4096  # beyond, one choice holds, and it is timed on so many
LONG_S = 0.1  # a run that takes longer is timed once
WIDEST = 16384  # columns that a kernel holds at a time
AUTO, INTEGERS = "auto", "integers"
TORCHAO = "torchao"
SCALED_MM, DEQUANTISE = "scaled_mm", "dequantise"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a choice is for.

    Attributes:
        rows: M rounded up to a power of two, at most :data:`MOST_ROWS`.
        in_features: K.
        out_features: N.
        scheme: As text.
        dtype: Of the activations.
        device: Its type.
        threads: Of torch.
    """

    rows: int
    in_features: int
    out_features: int
    scheme: str
    dtype: torch.dtype
    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a shape.

    Attributes:
        name: Of the way.
        way: The function.
        gain: Time of the plain layer by that of the way; ``None``: not timed, because there was nothing to choose.
    """

    name: str
    way: Way
    gain: float | None = None


_TIMED: dict[Shape, Choice] = {}  # of this process: another pipeline with layers of that shape asks nobody anew


class Ways:
    """Gives every layer of a denoiser the way for the rows at hand.

    Args:
        policy: ``"auto"``: the fastest, multiplying weights out where nothing is faster; ``"integers"``: the fastest
            of those that multiply integers, so that results do not depend on what was fast on the day; or a name.

    Attributes:
        chosen: What was chosen so far.
        usual: What a graph does with rows of a number that was not timed.
    """

    def __init__(self, policy: str = AUTO) -> None:
        check_policy(policy)
        self.policy = policy
        self.chosen: dict[tuple[int, int, int, str, torch.dtype, str], Choice] = {}
        self.usual: dict[tuple[str, int, int, str], Choice] = {}

    def __call__(self, layer: QuantLinear, rows: Tensor) -> Tensor:
        return self.choice(layer, rows).way(layer, rows)

    def prepare(self, layer: QuantLinear, devices: Sequence[torch.device]) -> list[torch.device]:
        """Look for the ways that a layer has where it is and may be moved to, outside of graphs.

        Returns:
            The devices on which there is one.

        Raises:
            ConfigError: There is none on any of them.
        """
        found, refused = [], []
        for device in devices:
            key = (layer.named, layer.in_features, layer.out_features, device.type)
            try:
                self.usual[key] = self.usual.get(key) or candidates(layer, device, self.policy)[0]
                found.append(device)
            except ConfigError as error:
                refused.append(error)
        if not found:
            raise refused[0]
        return found

    def choice(self, layer: QuantLinear, rows: Tensor) -> Choice:
        """The choice for these rows; outside of graphs it is timed where it was not yet."""
        count = min(bucket(rows.shape[0]), MOST_ROWS)
        key = (count, layer.in_features, layer.out_features, layer.named, rows.dtype, rows.device.type)
        found = self.chosen.get(key)
        if found is None:
            if torch.compiler.is_compiling():
                return self.usual[layer.named, layer.in_features, layer.out_features, rows.device.type]
            found = self.chosen[key] = self._choose(layer, rows, count)
        return found

    def _choose(self, layer: QuantLinear, rows: Tensor, count: int) -> Choice:
        ways = candidates(layer, rows.device, self.policy)
        if len(ways) == 1 or layer.scheme.a_bits == 16:
            return ways[0]
        shape = Shape(
            count,
            layer.in_features,
            layer.out_features,
            f"{self.policy} {layer.named}",
            rows.dtype,
            rows.device.type,
            torch.get_num_threads(),
        )
        if shape not in _TIMED:
            _TIMED[shape] = timed(layer, rows, ways)
            logger.info("%s: '%s', %.2f times as fast as plain", shape, _TIMED[shape].name, _TIMED[shape].gain)
        return _TIMED[shape]


def check_policy(policy: str) -> None:
    """Refuse what names no way.

    Raises:
        ConfigError: With those that there are.
    """
    known = (AUTO, INTEGERS, SCALED_MM, DEQUANTISE, TORCHAO, *PRODUCTS)
    if policy not in known:
        raise ConfigError(f"no way '{policy}' to multiply.{did_you_mean(policy, known)} There are: {', '.join(known)}")


def candidates(layer: QuantLinear, device: torch.device, policy: str) -> list[Choice]:
    """The ways that a layer may take on a device, the likeliest first; never none."""
    if layer.scheme.a_bits == 16:
        return [Choice(DEQUANTISE, dequantise)]
    if policy == TORCHAO:
        require_torchao()
        if fits_torchao(layer):
            return [Choice(TORCHAO, by_torchao)]
    if layer.scheme.floats:
        found = [Choice(SCALED_MM, scaled_mm)] if can_scale(layer, device) and policy != "reference" else []
        found = found or [Choice("reference", reference)]
    elif policy in PRODUCTS:
        if not is_exact(policy, device.type):
            raise ConfigError(f"'{policy}' does not multiply integers exactly on this {device.type}: use 'integers'")
        return [Choice(policy, _by_product(policy, layer))]
    else:
        found = [Choice(name, _by_product(name, layer)) for name in usual_products(device)]
    if policy == DEQUANTISE:
        return [Choice(DEQUANTISE, dequantise)]
    return [*found, Choice(DEQUANTISE, dequantise)] if policy == AUTO else found


def timed(layer: QuantLinear, rows: Tensor, ways: list[Choice]) -> Choice:
    """The fastest of several ways on rows like these, and what it gains over the plain layer.

    Multiplying the weight out rounds no activations: where it is among the ways, others must be faster by more than
    noise.
    """
    draw = torch.Generator().manual_seed(0)
    like = torch.randn(min(len(rows), MOST_ROWS), rows.shape[1], generator=draw).to(rows.device, rows.dtype)
    weight = layer.weight_as_kept().dequantised().to(rows.dtype)
    with torch.no_grad():
        plain = seconds(lambda: torch.nn.functional.linear(like, weight, layer.bias), rows.device)
        taken = [seconds(lambda way=each.way: way(layer, like), rows.device) for each in ways]  # type: ignore[misc]
    best = min(range(len(ways)), key=taken.__getitem__)
    for place, each in enumerate(ways):
        if each.name == DEQUANTISE and taken[place] < WORTH_IT * taken[best]:
            best = place
    return Choice(ways[best].name, ways[best].way, plain / taken[best])


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """The least of a few times: what is left of it when nobody else is busy."""
    best = float("inf")
    for number in range(REPEATS + 1):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        taken = time.perf_counter() - start
        if number or taken > LONG_S:
            best = min(best, taken)
        if taken > LONG_S:
            break
    return best


def bucket(rows: int) -> int:
    """M rounded up to a power of two: within it a choice holds."""
    return 1 << max(0, rows - 1).bit_length()


def can_scale(layer: QuantLinear, device: torch.device) -> bool:
    """Whether ``torch._scaled_mm`` takes this layer: sizes that 16 divides, on a GPU of compute capability 8.9."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        return False
    return device.type in ("cpu", "cuda") and layer.in_features % 16 == 0 and layer.out_features % 16 == 0


def scaled_mm(layer: QuantLinear, rows: Tensor) -> Tensor:
    """8-bit floats, scales for each row and column, bf16 out of a GPU: row-wise scales are for bf16 alone there."""
    values, scale = quantise_floats(layer.prepared(rows))
    dtype = torch.bfloat16 if rows.is_cuda else torch.float32
    out = torch._scaled_mm(values, layer.values.mT, scale_a=scale, scale_b=layer.scale[None], out_dtype=dtype)
    return out if layer.bias is None else out + layer.bias.to(dtype)


def in_one_operator(layer: QuantLinear, rows: Tensor) -> Tensor:
    """Smoothing, rotation, rounding, product, scales and bias in two Triton kernels."""
    from dit_accel.kernels.int8_linear import int8_linear

    out: Tensor = int8_linear(
        rows,
        layer.values,
        layer.scale,
        layer.bias,
        layer.multiplier,
        layer.zero,
        layer.group,
        layer.inverse_smooth,
        layer.block,
        layer.scheme.a_bits,
        True,
    )
    return out


def fits_operator(layer: QuantLinear) -> bool:
    """Whether the kernels know the grids of a layer; what they do not know, their product alone computes."""
    from dit_accel.kernels.int8_gemm import NIBBLE_GROUPS

    scheme = layer.scheme
    if scheme.flat or not scheme.a_symmetric or scheme.granularity != "token" or layer.in_features > WIDEST:
        return False
    return layer.group in NIBBLE_GROUPS if scheme.w_bits == 4 else scheme.w_symmetric


def _by_product(name: str, layer: QuantLinear) -> Way:
    if name == "triton" and fits_operator(layer):
        return in_one_operator
    multiply = PRODUCTS.get(name).multiply

    def way(layer: QuantLinear, rows: Tensor) -> Tensor:
        # A graph fuses what a chunk is for; one scale for all rows is found from all of them.
        step = max(FEWEST_ROWS, CHUNK // layer.out_features)
        whole = rows.shape[0] <= step or rows.device.type != "cpu" or torch.compiler.is_compiling()
        if whole or layer.scheme.granularity == "tensor":
            return on_integers(layer, rows, multiply)
        out = torch.empty(rows.shape[0], layer.out_features, dtype=rows.dtype)
        weight = layer.weight_as_kept().integers()
        for start in range(0, rows.shape[0], step):
            part = rows[start : start + step]
            out[start : start + step] = on_integers(layer, part, multiply, weight)
        return out

    return way


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
