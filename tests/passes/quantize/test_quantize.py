"""The pass: what it replaces, what it takes back, what it says, and what it goes together with."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline
from torch import nn

from dit_accel import (
    AccelerationPlan,
    CompileConfig,
    GeneratorSpec,
    QuantizeConfig,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    accelerated,
    remove_acceleration,
    summary,
)
from dit_accel.errors import ConfigError, IrreversibleError, UnsupportedModelError
from dit_accel.families.targets import find_targets
from dit_accel.passes.quantize.apply import quantised_of, weights_to_store
from dit_accel.passes.quantize.choice import unmatched
from dit_accel.passes.quantize.layer import QuantLinear, Step
from dit_accel.passes.quantize.replaced import bytes_of
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.weights import quantise_weight
from dit_accel.session.session import session_of

STEPS = 4
EXACT = QuantizeConfig(backend="reference")


def denoiser_of(pipe: Any) -> nn.Module:
    module = getattr(pipe, "transformer", None) or pipe.unet
    assert isinstance(module, nn.Module)
    return module


def run(pipe: Any, name: str) -> torch.Tensor:
    first = pipe(**tiny_call(name, num_inference_steps=STEPS))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


def quant_layers(pipe: Any) -> dict[str, QuantLinear]:
    return {path: each for path, each in denoiser_of(pipe).named_modules() if isinstance(each, QuantLinear)}


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10((a.max() - a.min()) ** 2 / (a - b).float().square().mean()))


def offload(pipe: Any, kind: str) -> None:
    """By pipelines' hooks, or diffusers' groups of blocks or layers; on the CPU there is nowhere to move to."""
    if kind == "model":
        pipe.enable_model_cpu_offload(device="cpu")
        return
    more = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    apply_group_offloading(denoiser_of(pipe), torch.device("cpu"), torch.device("cpu"), kind, **more)


@pytest.mark.parametrize("name", ["pixart", "flux", "wan", "sd"])
def test_applied_and_removed(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain, before = run(pipe, name), snapshot(pipe)
    parameters = dict(denoiser_of(pipe).named_parameters())
    accelerate_pipeline(pipe, [QuantizeConfig(bits="w8a8", backend="integers")])
    assert quant_layers(pipe)
    close = run(pipe, name)
    assert not torch.equal(close, plain) and psnr(plain, close) > 25
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)
    after = dict(denoiser_of(pipe).named_parameters())
    assert all(after[path] is parameter for path, parameter in parameters.items())
    assert torch.equal(run(pipe, name), plain)


def test_every_way_gives_the_same_picture() -> None:
    pipe = tiny_pipeline("pixart")
    pictures = []
    for backend in ("reference", "int_mm", "integers"):
        with accelerated(pipe, [QuantizeConfig(bits="w4a8", backend=backend)]):
            pictures.append(run(pipe, "pixart"))
    assert torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[0], pictures[2])


def test_who_is_quantised_and_who_is_not() -> None:
    pipe = tiny_pipeline("flux")
    with accelerated(
        pipe,
        [QuantizeConfig(bits="w4a8", backend="integers", layers={"*.single_transformer_blocks.0.proj_out": "plain"})],
    ):
        found = {path: layer.scheme.width for path, layer in quant_layers(pipe).items()}
    assert found["transformer_blocks.0.attn.to_q"] == "w4a8" and found["transformer_blocks.0.norm1.linear"] == "w4a16"
    assert "single_transformer_blocks.0.proj_out" not in found and "single_transformer_blocks.1.proj_out" in found
    assert not any(path.startswith(("proj_out", "x_embedder", "context", "time_text", "norm_out")) for path in found)


def test_plain_but_for_what_is_named() -> None:
    pipe = tiny_pipeline("sd")
    name = next(path for path, _ in denoiser_of(pipe).named_modules() if path.endswith("attn1.to_q"))
    with accelerated(pipe, [QuantizeConfig(bits="plain", layers={f"unet.{name}": "w8a8"}, backend="integers")]):
        assert set(quant_layers(pipe)) == {name}


@pytest.mark.parametrize(
    ("bits", "said", "scheme"),
    [
        ("w4a8", "auto", "w4a16"),
        ("w8a8", "auto", "w8a16"),
        ("fp8", "auto", "w8a16"),
        ("w4a8", "w8a16", "w8a16"),
        ("w4a8", "plain", "plain"),
    ],
)
def test_what_modulates_has_as_many_bits(bits: str, said: str, scheme: str) -> None:
    config = QuantizeConfig(bits=bits, modulation=said)
    assert config.modulation_scheme == scheme
    assert (
        QuantizeConfig.from_dict({k: v for k, v in config.to_dict().items() if k not in ("type", "version")}, {})
        == config
    )


def test_it_says_what_it_takes_and_who_multiplies() -> None:
    pipe = tiny_pipeline("pixart")
    before = bytes_of(denoiser_of(pipe))
    accelerate_pipeline(pipe, [QuantizeConfig(bits="w4a8", backend="integers")])
    run(pipe, "pixart")
    effect = summary(pipe).denoisers[0].effects["quantize"]
    assert effect.actual_frac == pytest.approx(1 - bytes_of(denoiser_of(pipe)) / before)
    assert effect.planned_frac == pytest.approx(effect.actual_frac, abs=0.05)
    assert "w4a8" in effect.what and "full" in effect.what
    assert "weight bytes saved" in str(summary(pipe))
    assert "are kept beside them" in effect.what  # on a CPU there is no other memory


def test_exact_steps() -> None:
    pipe = tiny_pipeline("pixart")
    plain = run(pipe, "pixart")
    with accelerated(pipe, [QuantizeConfig(bits="w4a8", exact_first=STEPS, backend="reference")]):
        assert torch.equal(run(pipe, "pixart"), plain)
        assert "100% full" in summary(pipe).denoisers[0].effects["quantize"].what
        assert summary(pipe).denoisers[0].effects["quantize"].actual_frac == 0
    errors = []
    for first, last in ((0, 0), (1, 0), (2, 1)):
        with accelerated(pipe, [QuantizeConfig(bits="w4a8", exact_first=first, exact_last=last, backend="reference")]):
            errors.append(float((run(pipe, "pixart") - plain).norm()))
    assert errors[0] > errors[2] > 0 and errors[1] != errors[0]


def test_originals_that_are_dropped_are_gone() -> None:
    pipe = tiny_pipeline("pixart")
    held = denoiser_of(pipe).transformer_blocks[0].attn1.to_q
    with pytest.raises(IrreversibleError, match="'quantize'"), accelerated(pipe, [QuantizeConfig(originals="drop")]):
        pass
    accelerate_pipeline(pipe, [QuantizeConfig(originals="drop", backend="reference")])
    assert held.weight is not None
    planned = summary(pipe).denoisers[0].effects["quantize"].planned_frac
    first = run(pipe, "pixart")
    effect = summary(pipe).denoisers[0].effects["quantize"]
    assert effect.planned_frac == planned > 0.4 and "kept" not in effect.what
    assert held.weight is None and all(layer.original is None for layer in quant_layers(pipe).values())
    assert torch.equal(run(pipe, "pixart"), first)
    with pytest.raises(IrreversibleError, match="cannot be undone"):
        remove_acceleration(pipe)


@pytest.mark.parametrize("name", ["pixart", "sd"])
def test_a_copy_without_originals_computes_the_same(name: str) -> None:
    pipe = tiny_pipeline(name)
    accelerate_pipeline(pipe, [QuantizeConfig(originals="drop", backend="reference")])
    drawn = run(pipe, name)
    twin, other = copy.deepcopy(denoiser_of(pipe)), tiny_pipeline(name)
    kinds = [type(each) for each in denoiser_of(pipe).modules() if isinstance(each, QuantLinear)]
    assert [type(each) for each in twin.modules() if isinstance(each, QuantLinear)] == kinds and kinds
    setattr(other, "transformer" if name == "pixart" else "unet", twin)
    assert torch.equal(run(other, name), drawn)


def test_a_plan_that_fails_half_way_leaves_nothing() -> None:
    pipe = tiny_pipeline("pixart")
    with torch.no_grad():
        denoiser_of(pipe).transformer_blocks[1].ff.net[2].weight[0, 0] = float("nan")
    before = snapshot(pipe)
    with pytest.raises(ConfigError, match=r"cannot round 'transformer.transformer_blocks.1.ff.net.2'.*not finite"):
        accelerate_pipeline(pipe, [QuantizeConfig(originals="drop")])
    assert_same(snapshot(pipe), before)


def test_a_copy_is_plain() -> None:
    pipe = tiny_pipeline("pixart")
    with accelerated(pipe, [EXACT]):
        twin = copy.deepcopy(denoiser_of(pipe))
    assert not any(isinstance(module, QuantLinear) for module in twin.modules())
    mine = denoiser_of(pipe).state_dict()
    assert twin.state_dict().keys() == mine.keys()
    assert all(torch.equal(tensor, mine[name]) for name, tensor in twin.state_dict().items())


def test_scales_stay_in_fp32_when_the_model_is_cast() -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, [EXACT])
    denoiser_of(pipe).to(torch.bfloat16)
    layer = next(iter(quant_layers(pipe).values()))
    assert layer.scale.dtype == torch.float32 and layer.bias.dtype == torch.bfloat16
    assert layer(torch.ones(1, layer.in_features, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["pixart", "sd"])
def test_a_cast_reaches_the_weights_as_they_were(name: str) -> None:
    pipe, other = tiny_pipeline(name), tiny_pipeline(name)
    stored = {}
    if name == "pixart":  # a bias of its own, so that no cast reaches that of the layer it stands for
        size = denoiser_of(pipe).get_submodule("transformer_blocks.0.attn1.to_q").out_features
        stored = {"transformer.transformer_blocks.0.attn1.to_q.bias": torch.ones(size)}
    denoiser_of(other).to(torch.bfloat16)
    plain = run(other, name)
    accelerate_pipeline(pipe, [QuantizeConfig(exact_first=STEPS, backend="reference", stored=stored)])
    denoiser_of(pipe).to(torch.bfloat16)
    assert torch.equal(run(pipe, name), plain)
    remove_acceleration(pipe)
    assert {each.dtype for each in denoiser_of(pipe).parameters()} == {torch.bfloat16}
    assert torch.equal(run(pipe, name), plain)


def test_an_exact_step_takes_no_weight_along() -> None:
    """Group offload brings the quantised layer alone to the device of a call, and takes it away again."""
    plain = nn.Linear(8, 4).requires_grad_(False)
    layer = QuantLinear(plain, quantise_weight(plain.weight, QuantScheme()), QuantScheme(), Step())
    layer.step.exact = True
    x = torch.ones(2, 8)
    wanted = plain(x)
    assert torch.equal(layer(x), wanted)
    there = layer(x.to("meta"))
    assert there.device.type == "meta" and plain.weight.device.type == "cpu" and torch.equal(layer(x), wanted)


def test_weights_in_few_bits_are_saved_and_come_back(tmp_path) -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, [QuantizeConfig(bits="w4a8", backend="reference")])
    drawn = run(pipe, "pixart")
    session = session_of(pipe)
    assert session is not None
    stored = weights_to_store(session.runtimes[0])
    remove_acceleration(pipe)
    config = QuantizeConfig(bits="w4a8", backend="reference", stored=stored)
    AccelerationPlan(passes=(config,), name="small").save_pretrained(tmp_path)
    read = AccelerationPlan.from_pretrained(tmp_path)
    assert read.passes[0] == config and read.content_sha256() == AccelerationPlan(passes=(config,)).content_sha256()
    with torch.no_grad():  # other weights: what is used is what was stored
        denoiser_of(pipe).transformer_blocks[0].attn1.to_q.weight.zero_()
    with accelerated(pipe, read):
        assert torch.equal(run(pipe, "pixart"), drawn)
    for what in ("values", "multiplier", "zero"):
        wrong = {name: each[:1] if name.endswith(f"attn1.to_q.{what}") else each for name, each in stored.items()}
        with pytest.raises(ConfigError, match="takes"):
            accelerate_pipeline(pipe, [QuantizeConfig(bits="w4a8", stored=wrong)])
    with pytest.raises(ConfigError, match=r"stored as its multiplier is .* and w4a8-g16 of this layer"):
        accelerate_pipeline(pipe, [QuantizeConfig(bits="w4a8-g16", modulation="plain", stored=stored)])


def test_with_what_it_goes_together() -> None:
    pipe = tiny_pipeline("pixart")
    every = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2), invariants=False)
    with accelerated(pipe, [EXACT, every]):
        cached = run(pipe, "pixart")
        effects = summary(pipe).denoisers[0].effects
        assert effects["static_cache"].actual_frac and effects["quantize"].actual_frac
    with accelerated(pipe, [EXACT, TrajectoryConfig(speedup=2.0)]):
        answered = run(pipe, "pixart")
        assert summary(pipe).denoisers[0].last_run.answered == 2
    with accelerated(pipe, [every]):
        assert psnr(run(pipe, "pixart"), cached) > 25
    with accelerated(pipe, [TrajectoryConfig(speedup=2.0)]):
        assert psnr(run(pipe, "pixart"), answered) > 25


@pytest.mark.parametrize("backend", ["int_mm", "fp32", "integers"])
def test_compiled_it_is_the_same(backend: str) -> None:
    pipe = tiny_pipeline("pixart")
    config = QuantizeConfig(backend=backend, exact_first=1)
    with accelerated(pipe, [config]):
        eager = run(pipe, "pixart")
    with accelerated(pipe, [config, CompileConfig(backend="eager")]):
        assert torch.allclose(run(pipe, "pixart"), eager, atol=1e-4)
    import torch._inductor.config as inductor

    with inductor.patch(freezing=True), pytest.raises(UnsupportedModelError, match="freezing is on"):
        accelerate_pipeline(pipe, [config])


def test_two_passes_that_change_weights() -> None:
    pipe = tiny_pipeline("pixart")
    with pytest.raises(ConfigError, match="given 2 times"):
        accelerate_pipeline(pipe, [EXACT, QuantizeConfig(bits="w4a8")])


def test_offloaded_weights() -> None:
    pipe = tiny_pipeline("pixart")
    denoiser_of(pipe).to("meta")
    with pytest.raises(UnsupportedModelError, match="apply it first, then offload"):
        accelerate_pipeline(pipe, [EXACT])


@pytest.mark.parametrize("kind", ["model", "block_level", "leaf_level"])
def test_offload_afterwards_moves_what_is_quantised(kind: str) -> None:
    pipe = tiny_pipeline("pixart")
    plain = run(pipe, "pixart")
    accelerate_pipeline(pipe, [EXACT])
    drawn = run(pipe, "pixart")
    offload(pipe, kind)
    assert all(torch.equal(run(pipe, "pixart"), drawn) for _ in range(2))
    remove_acceleration(pipe)
    assert torch.equal(run(pipe, "pixart"), plain)


def test_offload_before_it() -> None:
    pipe = tiny_pipeline("pixart")
    plain = run(pipe, "pixart")
    offload(pipe, "model")
    with accelerated(pipe, [EXACT]):
        assert not torch.equal(run(pipe, "pixart"), plain)
    assert torch.equal(run(pipe, "pixart"), plain)
    pipe = tiny_pipeline("pixart")
    offload(pipe, "leaf_level")
    with pytest.raises(UnsupportedModelError, match="apply it first, then offload"):
        accelerate_pipeline(pipe, [EXACT])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"bits": "w5a8"}, "bits: 'w5a8' is no scheme"),
        ({"layers": {"*.to_q": "w8a9"}}, "'w8a9' is no scheme"),
        ({"layers": ["to_q"]}, "layers must be names"),
        ({"bits": "plain"}, "nothing to do"),
        ({"backend": "int_nm"}, "Did you mean 'int_mm'"),
        ({"exact_first": -1}, "exact_first must be a whole number"),
        ({"originals": "burn"}, "originals must be"),
        ({"originals": "drop", "exact_last": 1}, "originals='keep'"),
        ({"stored": {"a.colour": torch.ones(1)}}, "nothing that is stored"),
    ],
)
def test_what_a_config_refuses(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        QuantizeConfig(**fields)


def test_layers_that_there_are_not() -> None:
    pipe = tiny_pipeline("pixart")
    with pytest.raises(UnsupportedModelError, match=r"no layer matches 'transformer.\*.to_z'"):
        accelerate_pipeline(pipe, [QuantizeConfig(layers={"transformer.*.to_z": "w4a8"})])
    wrong = QuantizeConfig(layers={"unet.*.to_q": "plain"})  # no denoiser of this pipeline has that name
    with pytest.raises(UnsupportedModelError, match=r"no layer matches 'unet.\*.to_q'"):
        accelerate_pipeline(pipe, [wrong])
    both = QuantizeConfig(
        layers={"unet.*": "plain", "transformer.*.to_z": "w4a8"}, stored={"unet.a.bias": torch.ones(1)}
    )
    target = find_targets(pipe)[0]
    said = unmatched(both, replace(target, beside=("unet",)))
    assert said is not None and "transformer.*.to_z" in said
    assert unmatched(wrong, replace(target, beside=("unet",))) is None
    with pytest.raises(ConfigError, match=r"fixed scales.*none are stored"):
        accelerate_pipeline(pipe, [QuantizeConfig(bits="w8a8-static")])


def test_fixed_scales_by_part_of_a_run() -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, [EXACT])
    session = session_of(pipe)
    assert session is not None
    peaks: dict[str, float] = {}
    for name, layer in quantised_of(session.runtimes[0]).layers.items():
        if layer.scheme.a_bits == 8:

            def see(module: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                peaks[name] = max(peaks.get(name, 0.0), float(args[0].abs().max()))

            layer.register_forward_pre_hook(see)
    run(pipe, "pixart")
    remove_acceleration(pipe)
    plain = run(pipe, "pixart")
    wide = {f"{name}.act_scale": torch.full((2,), peak / 127) for name, peak in peaks.items()}
    half = {f"{name}.act_scale": torch.tensor([1e-6, peak / 127]) for name, peak in peaks.items()}
    errors = []
    for stored in (wide, half):
        with accelerated(pipe, [QuantizeConfig(bits="w8a8-bins", stored=stored, backend="reference")]):
            errors.append(float((run(pipe, "pixart") - plain).norm()))
    assert errors[1] > 2 * errors[0] > 0
