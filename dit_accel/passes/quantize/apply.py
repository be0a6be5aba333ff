"""Post-training quantisation: linear layers on integers, weights of 4 or 8 bits, activations scaled token by token.

ViDiT-Q (Zhao et al., arXiv 2406.02540), MixDQ (arXiv 2405.17873) and, for weights in groups, QServe (2405.04532).
Departures: a scale for each token of each sample, where the published simulation shares one over the batch; weights in
groups have whole steps, so that 4-bit weights are multiplied as int8 without sums for each group.
"""

from torch import Tensor, nn

from dit_accel.families.targets import Target
from dit_accel.passes.base import Pass, register_pass
from dit_accel.passes.quantize.choice import chosen_layers, unmatched
from dit_accel.passes.quantize.config import NAME, WEIGHT, QuantizeConfig
from dit_accel.passes.quantize.conv import why_not
from dit_accel.passes.quantize.replaced import Quantised
from dit_accel.passes.quantize.roles import is_plain
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime

USUAL_STEPS = 20  # for what is said of exact steps before a run


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


def quantised_of(runtime: DenoiserRuntime) -> Quantised:
    """What this pass made of a denoiser that it was applied to."""
    found = runtime.books[NAME]
    assert isinstance(found, Quantised)
    return found


def apply_quantize(runtime: DenoiserRuntime, config: QuantizeConfig) -> None:
    """Replace the layers of one denoiser."""
    quantised = Quantised(runtime.target, config, runtime.ledger, runtime.clock.owner)
    if quantised.follows_steps:
        runtime.around(quantised, order=90, by=NAME)
    if config.originals == "drop":
        runtime.each_run(lambda run: quantised.originals.let_go(), by=NAME)
    runtime.books[NAME] = quantised


def effect_of_quantize(runtime: DenoiserRuntime, config: QuantizeConfig) -> Effect:
    """Bytes that the denoiser no longer takes, and who does which share of the products."""
    quantised = quantised_of(runtime)
    steps = runtime.stats.num_steps if runtime.stats.calls else USUAL_STEPS
    percent = {width: 100 * share for width, share in quantised.shares(steps).items()}
    shares = ", ".join(f"{share:.3g}% {width}" for width, share in percent.items())
    kept = "; those as they were are kept beside them" if quantised.keeps_beside else ""
    before = quantised.bytes_before
    planned = max(0.0, 1 - quantised.bytes_planned / before)
    actual = max(0.0, 1 - quantised.bytes_now() / before)
    return Effect(
        what=f"weight bytes saved (products: {shares}{kept})",
        planned_frac=planned,
        actual_frac=actual if runtime.stats.calls else None,
        total=before,
    )


def _obstacles(target: Target, config: QuantizeConfig) -> list[str]:
    chosen = chosen_layers(target, config)
    if not chosen:
        return ["no layer of it is to be quantised"]
    lost = unmatched(config, target)
    if lost is not None:
        return [lost]
    found = []
    strange = [layer.path for layer, _ in chosen if not is_plain(layer.layer)]
    if strange:
        found.append(
            f"{len(strange)} of its layers have weights that are offloaded or quantised already ('{strange[0]}'): "
            "apply it first, then offload"
        )
    for layer, _ in chosen:
        reason = why_not(layer.layer) if isinstance(layer.layer, nn.Conv2d) else None
        if reason is not None:
            found.append(f"'{layer.path}' cannot be quantised: {reason}")
    if any(len(getattr(module, "lora_magnitude_vector", ())) for module in target.denoiser.modules()):
        found.append("it has DoRA adapters, which read the weights in every call: fuse them first (pipe.fuse_lora())")
    if _freezing():
        found.append(
            "torch._inductor.config.freezing is on: it rewrites products of integers into a path that is thousands of "
            "times slower on CPUs without AMX; set it to False"
        )
    return found


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
