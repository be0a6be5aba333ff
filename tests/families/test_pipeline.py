"""Which denoisers a pipeline has."""

import pytest
import torch
from tiny import TINY_PIPELINE_NAMES, tiny_model, tiny_pipeline
from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families import resolve_family
from dit_accel.families.pipeline import BARE, default_px_of, find_denoisers, vae_scale_of


@pytest.mark.parametrize("name", TINY_PIPELINE_NAMES)
def test_every_pipeline_has_its_denoisers(name: str) -> None:
    pipe = tiny_pipeline(name)
    found = find_denoisers(pipe)
    expected = {
        "sd": ["unet"],
        "sdxl": ["unet"],
        "animatediff": ["unet"],
        "svd": ["unet"],
        "wan22": ["transformer", "transformer_2"],
        "wan22_low": ["transformer_2"],
    }
    assert [attribute for attribute, _ in found] == expected.get(name, ["transformer"])
    for attribute, module in found:
        assert module is getattr(pipe, attribute)
        assert len(resolve_family(module).bind(module).graph) > 3


def test_a_bare_denoiser_and_its_wrappers_are_seen_through() -> None:
    model = tiny_model("pixart")
    assert find_denoisers(model) == ((BARE, model),)
    compiled = torch.compile(model, backend="eager")
    assert find_denoisers(compiled) == ((BARE, model),)
    pipe = tiny_pipeline("pixart")
    inner = pipe.transformer
    pipe.transformer = torch.compile(inner, backend="eager")
    assert find_denoisers(pipe) == (("transformer", inner),)


class _Parallel(nn.Module):
    """Like DistributedDataParallel: nothing but the wrapped module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class _OwnModule(nn.Module):
    """Not a wrapper: an attribute called ``module`` beside another."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)


def test_parallel_and_adapter_wrappers_are_seen_through() -> None:
    model = tiny_model("pixart")
    assert find_denoisers(_Parallel(torch.compile(_Parallel(model), backend="eager"))) == ((BARE, model),)
    own = _OwnModule()
    assert find_denoisers(own) == ((BARE, own),)
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["to_q"]))
    assert find_denoisers(wrapped) == ((BARE, model),)
    # Where an adapter sits on a site, the site is the adapted layer.
    layout = resolve_family(model).bind(model)
    assert "blocks.0.attn2.to_k" in layout.graph and "blocks.0.attn1" in layout.graph


def test_a_pipeline_without_denoiser_says_what_it_has() -> None:
    class Captioner:
        components = {"tokenizer": object(), "text_encoder": nn.Linear(2, 2), "vae": None}  # noqa: RUF012

    with pytest.raises(UnsupportedModelError, match="text_encoder: Linear") as error:
        find_denoisers(Captioner())
    assert "transformer" in str(error.value) and "vae" not in str(error.value)


def test_a_known_denoiser_under_another_name_is_found() -> None:
    class Odd:
        components = {"backbone": tiny_model("pixart")}  # noqa: RUF012

    assert [name for name, _ in find_denoisers(Odd())] == ["backbone"]


def test_scale_and_size_come_from_the_pipeline() -> None:
    pipe = tiny_pipeline("pixart")
    family = resolve_family(pipe.transformer)
    assert vae_scale_of(pipe, family) == (1, 8)
    assert default_px_of(pipe.transformer, family, (1, 4)) == 32
    wan = tiny_pipeline("wan")
    assert vae_scale_of(wan, resolve_family(wan.transformer)) == (4, 8)
    assert vae_scale_of(object(), resolve_family(wan.transformer)) == (4, 8)
