"""The exact rival, diffusers' context parallel: it draws the same, and sends what the formula says that it does."""

from typing import Any

import diffusers
import pytest
import torch
from ranks import apart, on_ranks
from tiny import tiny_inputs, tiny_model

from dit_accel import PatchParallelConfig, accelerate_pipeline
from dit_accel.passes.patch_parallel.formulas import LayerShape, ulysses_bytes
from dit_accel.passes.patch_parallel.rows import Share


def _both(rank: int, size: int) -> dict[str, Any]:
    """One call of FLUX: alone, by Ulysses, by rows; and the bytes that Ulysses hands to all_to_all."""
    import torch.distributed._functional_collectives as funcol

    inputs = tiny_inputs("flux", tiny_model("flux"), batch=1)
    alone = tiny_model("flux")(**inputs)[0]

    rival = tiny_model("flux")
    torch.accelerator.device_count = lambda: 1  # diffusers 0.42 divides by it, and it is 0 without an accelerator
    rival.enable_parallelism(config=diffusers.ContextParallelConfig(ulysses_degree=size))
    native, sent = funcol.all_to_all_single, []

    def counted(tensor: torch.Tensor, *args: Any) -> torch.Tensor:
        sent.append(tensor.numel() * tensor.element_size() * (size - 1) // size)
        return native(tensor, *args)

    funcol.all_to_all_single = counted
    ulysses = rival(**inputs)[0]

    ours = tiny_model("flux")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    accelerate_pipeline(ours, PatchParallelConfig(mode="sync", careful=True), scheduler=scheduler)
    rows = ours(**inputs)[0]
    return {"ulysses": apart(ulysses, alone), "rows": apart(rows, alone), "sent": sum(sent), "times": len(sent)}


@pytest.mark.skipif(not hasattr(diffusers, "ContextParallelConfig"), reason="this diffusers has no context parallel")
def test_both_are_exact_and_ulysses_sends_what_the_formula_says() -> None:
    layers, width, tokens = 4, 2 * 16, 16 + 6  # text is split, too
    shape = LayerShape(batch=1, columns=1, width=width, element_bytes=4)
    for rank, told in enumerate(on_ranks(_both, 2)):
        assert told["ulysses"] < 1e-5 and told["rows"] < 1e-5
        assert told["times"] == 4 * layers
        assert told["sent"] == layers * ulysses_bytes(shape, Share(tokens, 1, 2, rank))
