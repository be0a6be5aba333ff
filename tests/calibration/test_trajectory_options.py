"""What a fit can do besides: filters over channels, weights polished by gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import TrajectoryConfig, accelerate_pipeline, remove_acceleration, summary, to_scheduler
from dit_accel.calibration.fit import fit
from dit_accel.calibration.polish import polished
from dit_accel.calibration.recording import record
from dit_accel.calibration.regression import channel_filter
from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.families.pipeline import find_denoisers

STEPS, COUNT = 6, 3
THIRD = (0, 3)


def drawing(pipe: Any, name: str) -> Any:
    """Draws as many pictures as it is asked for, each from a seed of its own."""

    def draw(first: int, last: int) -> torch.Tensor:
        call = tiny_call(name, num_inference_steps=STEPS, num_images_per_prompt=last - first)
        call["generator"] = [torch.Generator().manual_seed(seed) for seed in range(first, last)]
        out = pipe(**call)[0]
        return out if isinstance(out, torch.Tensor) else torch.stack(list(out))

    return draw


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 3, 2, 6, 6), (4, 40, 3)])
def test_the_filter_is_what_mixes_the_channels(shape: tuple[int, ...]) -> None:
    output = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix = torch.tensor([[0.1, -0.2, 0.0], [0.3, 0.0, 0.0], [0.0, 0.0, 0.5]])
    axis = 2 if len(shape) == 3 else 1
    left = torch.einsum("dc,...c->...d", matrix, output.movedim(axis, -1)).movedim(-1, axis)
    torch.testing.assert_close(channel_filter(output, left), matrix.double(), rtol=0, atol=1e-4)


def test_where_prompts_disagree_there_is_no_filter() -> None:
    output = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    signs = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    assert not channel_filter(output, signs * output).any()
    assert not channel_filter(output[:1], output[:1]).any()


@pytest.mark.parametrize("name", ["pixart", "sd", "wan"])
def test_branches_with_weights_of_their_own_come_closer_and_the_pass_repeats_it(name: str) -> None:
    pipe = tiny_pipeline(name)

    def draw(first: int, last: int) -> torch.Tensor:
        out = pipe(**tiny_call(name, num_inference_steps=STEPS, guidance_scale=6.0))[0]
        return out if isinstance(out, torch.Tensor) else torch.stack(list(out))

    reference = record(pipe, draw, 0, 1)
    shared, apart = (fit(pipe, draw, reference, THIRD, 0, 1, branches=branches) for branches in (False, True))
    assert apart.errors.max() < shared.errors.max()
    assert shared.config.unconditional is None and apart.config.unconditional is not None
    accelerate_pipeline(pipe, apart.config, strict=True)
    torch.testing.assert_close(draw(0, 1), apart.pictures, rtol=1e-3, atol=1e-3)
    remove_acceleration(pipe)
    with pytest.raises(ConfigError, match="a scheduler sees both as one"):
        to_scheduler(apart.config, pipe.scheduler)


@pytest.mark.parametrize("name", ["pixart", "sd", "wan"])
def test_where_the_conditional_branch_alone_is_computed(name: str) -> None:
    pipe = tiny_pipeline(name)

    def draw(first: int, last: int) -> torch.Tensor:
        out = pipe(**tiny_call(name, num_inference_steps=STEPS, guidance_scale=6.0))[0]
        return out if isinstance(out, torch.Tensor) else torch.stack(list(out))

    reference = record(pipe, draw, 0, 1)
    apart = fit(pipe, draw, reference, THIRD, 0, 1, branches=True)
    half = fit(pipe, draw, reference, THIRD, 0, 1, branches=True, conditional=(1, 4))
    assert half.errors.max() < apart.errors.max()
    assert half.config.conditional == (False, True, False, False, True, False)
    assert TrajectoryConfig.from_dict(*written(half.config)) == half.config
    computed = []
    first = [module for module in find_denoisers(pipe)[0][1].modules() if isinstance(module, torch.nn.Conv2d)]
    first += [module for module in find_denoisers(pipe)[0][1].modules() if isinstance(module, torch.nn.Conv3d)]
    counter = first[0].register_forward_hook(lambda module, args, output: computed.append(len(output)))
    accelerate_pipeline(pipe, half.config, strict=True)
    torch.testing.assert_close(draw(0, 1), half.pictures, rtol=1e-3, atol=1e-3)
    counter.remove()
    assert sum(computed) == 2 * 2 + 2  # of one picture: two whole evaluations of two branches each, and two halves
    assert summary(pipe).denoisers[0].effects["trajectory"].actual_frac == pytest.approx(1 - (2 + 2 / 2) / STEPS)
    remove_acceleration(pipe)
    with pytest.raises(ConfigError, match="ask for 'branches' too"):
        fit(pipe, draw, reference, THIRD, 0, 1, conditional=(1,))


def written(config: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return {k: v for k, v in config.to_dict().items() if k not in ("type", "version")}, config.tensors()


def test_branches_that_there_are_not_are_refused() -> None:
    pipe = tiny_pipeline("flux")
    draw = drawing(pipe, "flux")
    reference = record(pipe, draw, 0, COUNT)
    with pytest.raises(UnsupportedModelError, match="guidance is distilled into the model"):
        fit(pipe, draw, reference, THIRD, 0, COUNT, branches=True)
    both = replace(fit(pipe, draw, reference, THIRD, 0, COUNT).config, levels=())
    with pytest.raises(UnsupportedModelError, match="guidance is distilled into the model"):
        accelerate_pipeline(pipe, replace(both, unconditional=both.weights))
    pipe = tiny_pipeline("pixart")
    alone = tiny_call("pixart", num_inference_steps=STEPS, guidance_scale=1.0)

    def unguided(first: int, last: int) -> Any:
        return torch.as_tensor(pipe(**alone)[0])

    reference = record(pipe, unguided, 0, 1)
    with pytest.raises(UnsupportedModelError, match="take a run with guidance"):
        fit(pipe, unguided, reference, THIRD, 0, 1, branches=True)
    accelerate_pipeline(pipe, replace(both, unconditional=torch.zeros_like(both.weights)))
    alone = {**alone, "generator": torch.Generator().manual_seed(0)}
    by_conditional = torch.as_tensor(pipe(**alone)[0])
    accelerate_pipeline(pipe, both)
    alone = {**alone, "generator": torch.Generator().manual_seed(0)}
    assert torch.equal(torch.as_tensor(pipe(**alone)[0]), by_conditional)


@pytest.mark.parametrize("name", ["pixart", "flux"])
def test_filters_bring_the_run_closer_and_the_pass_repeats_it(name: str) -> None:
    pipe = tiny_pipeline(name)
    draw = drawing(pipe, name)
    reference = record(pipe, draw, 0, COUNT)
    plain, mixed = (fit(pipe, draw, reference, THIRD, 0, COUNT, channels=channels) for channels in (False, True))
    assert plain.config.filters is None
    assert mixed.config.filters is not None and mixed.config.filters.any()
    assert mixed.errors.mean() < plain.errors.mean()
    accelerate_pipeline(pipe, mixed.config)
    torch.testing.assert_close(draw(0, COUNT), mixed.pictures, rtol=1e-3, atol=1e-3)


def test_polish_brings_the_end_closer_and_leaves_no_trace() -> None:
    pipe = tiny_pipeline("pixart")
    draw = drawing(pipe, "pixart")
    reference = record(pipe, draw, 0, COUNT)
    weights = torch.zeros(STEPS, STEPS + 2, dtype=torch.float64)
    for step in range(1, STEPS):
        weights[step, max(node for node in THIRD if node < step)] = 1.0
    again = TrajectoryConfig(computed=tuple(step in THIRD for step in range(STEPS)), weights=weights)
    learning = [parameter.requires_grad for parameter in pipe.transformer.parameters()]
    off = []
    for config in (again, polished(pipe, draw, reference, again, 0, COUNT, 3)):
        accelerate_pipeline(pipe, config)
        off.append((draw(0, COUNT) - reference.pictures).flatten(1).norm(dim=1).tolist())
        remove_acceleration(pipe)
    assert all(polish < plain for plain, polish in zip(*off, strict=True))
    assert [parameter.requires_grad for parameter in pipe.transformer.parameters()] == learning
    assert torch.is_grad_enabled()


def test_a_polished_fit_is_never_worse_for_the_prompts_held_out_and_the_pass_repeats_it() -> None:
    pipe = tiny_pipeline("flux")
    draw = drawing(pipe, "flux")
    reference = record(pipe, draw, 0, COUNT)
    fitted, result = (fit(pipe, draw, reference, THIRD, 0, COUNT, polish=rounds) for rounds in (0, 2))
    assert result.errors[-1] <= fitted.errors[-1] * (1 + 1e-3) and not result.pictures.requires_grad
    accelerate_pipeline(pipe, result.config)
    torch.testing.assert_close(draw(0, COUNT), result.pictures, rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="at least two"):
        polished(pipe, draw, reference, fitted.config, 0, 1, 1)
