"""LoRA: beside the quantised weights, or fused into what is quantised; refused where it reads the weights itself."""

from typing import Any

import pytest
import torch
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline

from dit_accel import QuantizeConfig, accelerate_pipeline, accelerated, remove_acceleration
from dit_accel.errors import UnsupportedModelError
from dit_accel.passes.quantize.layer import QuantLinear

peft = pytest.importorskip("peft")
INTEGERS = QuantizeConfig(backend="integers")


def with_lora(**more: Any) -> Any:
    pipe = tiny_pipeline("pixart")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False, **more)
    peft.inject_adapter_in_model(config, pipe.transformer, adapter_name="style")
    return pipe


def run(pipe: Any) -> torch.Tensor:
    first = pipe(**tiny_call("pixart", num_inference_steps=2))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


def near(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_adapters_stay_beside_the_quantised_weights() -> None:
    pipe = with_lora()
    styled = run(pipe)
    adapted = [module for module in pipe.transformer.modules() if hasattr(module, "enable_adapters")]
    for module in adapted:
        module.enable_adapters(False)
    unstyled = run(pipe)
    for module in adapted:
        module.enable_adapters(True)
    before = snapshot(pipe)
    with accelerated(pipe, [INTEGERS]):
        layer = pipe.transformer.transformer_blocks[0].attn1.to_q
        assert isinstance(layer.base_layer, QuantLinear) and layer.lora_A["style"].weight.dtype == torch.float32
        assert near(run(pipe), styled) < near(unstyled, styled) / 2
        # Fusing would change a weight that is not there: it says so, and nothing is silently lost.
        with pytest.raises(AttributeError, match="weight"):
            layer.merge()
    assert_same(snapshot(pipe), before)


def test_adapters_that_are_unloaded_meanwhile_leave_nothing_of_ours() -> None:
    from diffusers.utils import recurse_remove_peft_layers

    plain, pipe = run(tiny_pipeline("pixart")), with_lora()
    accelerate_pipeline(pipe, [INTEGERS])
    recurse_remove_peft_layers(pipe.transformer)  # what unload_lora_weights does
    assert isinstance(pipe.transformer.transformer_blocks[0].attn1.to_q, QuantLinear)
    remove_acceleration(pipe)
    assert not any(isinstance(module, QuantLinear) for module in pipe.transformer.modules())
    assert torch.equal(run(pipe), plain)


def test_what_is_fused_is_quantised_with_it() -> None:
    pipe = with_lora()
    styled = run(pipe)
    for module in pipe.transformer.modules():
        if hasattr(module, "merge") and hasattr(module, "lora_A"):
            module.merge()
    accelerate_pipeline(pipe, [INTEGERS])
    assert near(run(pipe), styled) < 0.1
    remove_acceleration(pipe)
    for module in pipe.transformer.modules():
        if hasattr(module, "unmerge") and hasattr(module, "lora_A"):
            module.unmerge()
    assert near(run(pipe), styled) < 1e-4


def test_adapters_that_read_the_weights_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"DoRA.*fuse them first"):
        accelerate_pipeline(with_lora(use_dora=True), [INTEGERS])
