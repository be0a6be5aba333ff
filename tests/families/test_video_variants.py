"""Models of one class whose facts differ: which text projections see the timestep, what FreeNoise changes."""

from typing import Any

import diffusers
import pytest
import torch
from tiny import tiny_pipeline
from tiny_configs import TINY
from tiny_models import randomise

from dit_accel.families import Layout, resolve_family
from dit_accel.families.check import check_layout
from dit_accel.families.proofs import Trial, invariant_faults, noise_like

TEXT = ("attn2.to_k", "attn2.to_v", "audio_attn2.to_k", "audio_attn2.to_v")


def _build(name: str, **more: Any) -> tuple[torch.nn.Module, Layout, dict[str, Any]]:
    tiny = TINY[name]
    model = randomise(getattr(diffusers, tiny.model_class)(**{**tiny.config, **more}), 0).eval().requires_grad_(False)
    family = resolve_family(model)
    inputs = family.sample_inputs(model, height_px=tiny.px, width_px=tiny.px, num_frames=tiny.frames, text_tokens=6)
    return model, family.bind(model), inputs


@pytest.mark.parametrize("timed", [True, False], ids=["ltx-2.3", "ltx-2.5"])
def test_ltx2_prompts_are_modulated_by_the_timestep_or_not(timed: bool) -> None:
    model, layout, inputs = _build("ltx23", use_prompt_adaln_single=timed)
    other = {**inputs, "timestep": inputs["timestep"] // 2, "sigma": inputs["sigma"] // 2}
    other["hidden_states"] = noise_like(inputs["hidden_states"])
    projections = [f"transformer_blocks.1.{name}" for name in TEXT]
    found = []
    for given in (inputs, other):
        outputs: list[torch.Tensor] = []
        for path in projections:
            model.get_submodule(path).register_forward_hook(lambda m, a, out, outputs=outputs: outputs.append(out))
        with torch.no_grad():
            model(**given)
        found.append(outputs[: len(projections)])
    changed = [not torch.equal(a, b) for a, b in zip(*found, strict=True)]
    assert changed == [timed] * len(projections)
    declared = [site.id for site in layout.graph if site.invariant and site.block == 1]
    assert declared == ([] if timed else [f"blocks.1.{name}" for name in TEXT])
    assert invariant_faults(Trial(model, layout, inputs), resolve_family(model).conditioning) == []


def test_attentions_that_free_noise_calls_once_a_window_keep_nothing() -> None:
    pipe = tiny_pipeline("animatediff")
    family = resolve_family(pipe.unet)
    plain = family.bind(pipe.unet)
    pipe.register_modules(motion_adapter=diffusers.MotionAdapter(block_out_channels=(8,), motion_norm_num_groups=8))
    pipe.enable_free_noise(context_length=2, context_stride=1)
    inputs = family.sample_inputs(pipe.unet, height_px=64, width_px=64, num_frames=3, text_tokens=6)
    assert any("called 2 times" in problem for problem in check_layout(pipe.unet, plain, inputs))
    layout = family.bind(pipe.unet)
    assert check_layout(pipe.unet, layout, inputs) == ()
    assert layout.graph.select("*.motion_modules.0", kinds=("motion",))
    assert not layout.graph.select("*.motion_modules.*.transformer_blocks.*")
