"""Discovery describes unknown transformers, and refuses what is no denoiser."""

import diffusers
import pytest
import torch
from tiny import DISCOVERED_NAMES, tiny_inputs, tiny_model
from torch import nn

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.families import Family, SiteSpec, Stack, find_family, known_families, register_family, resolve_family
from dit_accel.families.catalog import RECIPE, unregister_family
from dit_accel.families.check import check_family, check_layout
from dit_accel.families.discovery import discover_family
from dit_accel.families.source import most_calls, residual_streams


@pytest.mark.parametrize("name", DISCOVERED_NAMES)
def test_discovered_families_are_marked(name: str) -> None:
    model = tiny_model(name)
    assert find_family(model) is None
    family = resolve_family(model)
    assert family.name == f"discovered:{type(model).__name__}"
    assert all(stack.streams for stack in family.stacks)


# Not Z-Image: discovery cannot know that it pads its tokens to a multiple of 32.
@pytest.mark.parametrize("name", [*DISCOVERED_NAMES, "mochi", "lumina2", "chroma", "flux2"])
def test_discovery_finds_nothing_that_is_not_so(name: str) -> None:
    """Also for models that we describe: what discovery says of them holds as well."""
    model = tiny_model(name)
    assert check_family(model, discover_family(model), tiny_inputs(name, model)) == ()


@pytest.mark.parametrize("name", [*DISCOVERED_NAMES, "mochi", "lumina2", "z_image"])
def test_inputs_are_guessed_from_names(name: str) -> None:
    model = tiny_model(name)
    family = discover_family(model)
    inputs = family.sample_inputs(model, height_px=64, width_px=64, num_frames=5, batch=2, text_tokens=6)
    with torch.no_grad():
        assert torch.isfinite(model(**inputs)[0][0]).all()
    assert check_layout(model, family.bind(model), inputs) == ()


def test_inputs_that_cannot_be_guessed_are_an_error() -> None:
    class Odd(diffusers.MochiTransformer3DModel):
        def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, moon_phase: float) -> torch.Tensor:
            raise NotImplementedError

    with torch.device("meta"):
        model = Odd(num_layers=1)
    with pytest.raises(UnsupportedModelError, match=r"'moon_phase'.*make_inputs"):
        discover_family(model).sample_inputs(model, height_px=64, width_px=64)


def test_refiners_are_stacks_in_the_order_of_the_calls() -> None:
    paths = [stack.path for stack in discover_family(tiny_model("lumina2")).stacks]
    assert paths == ["context_refiner", "noise_refiner", "layers"]
    paths = [stack.path for stack in discover_family(tiny_model("z_image")).stacks]
    assert paths == ["noise_refiner", "context_refiner", "layers"]


def test_mochi_has_joint_attention_and_no_text_feed_forward_in_its_last_block() -> None:
    graph = discover_family(tiny_model("mochi")).bind(tiny_model("mochi")).graph
    assert [site.kind for site in graph if site.block == 0][1:] == ["joint_attn", "ff", "ff_context"]
    assert [site.kind for site in graph if site.block == 2][1:] == ["joint_attn", "ff"]


def _text_encoder() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=16,
            eos_token_id=1,
        )
    )


@pytest.mark.parametrize(
    "build",
    [lambda: nn.Linear(2, 2), lambda: diffusers.AutoencoderKL(), _text_encoder],
    ids=["linear", "autoencoder", "text_encoder"],
)
def test_what_is_no_transformer_denoiser_is_refused_with_a_recipe(build: object) -> None:
    assert callable(build)
    model = build()
    with pytest.raises(UnsupportedModelError) as error:
        resolve_family(model)
    message = str(error.value)
    assert "looked for" in message and "found" in message
    assert f'model_classes=("{type(model).__name__}",)' in message and "register_family" in message


def test_the_recipe_in_the_message_works() -> None:
    class MyDenoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer_blocks = tiny_model("pixart").transformer_blocks

    scope: dict[str, object] = {}
    code = "\n".join(line.removeprefix("    ") for line in RECIPE.format(model_class="MyDenoiser").splitlines())
    assert len(code.splitlines()) <= 10
    exec(code, scope)
    try:
        model = MyDenoiser()
        family = find_family(model)
        assert family is not None and family.name == "mine"
        graph = family.bind(model).graph
        assert "blocks.2.attn1" in graph and "blocks.0.ff" in graph
        assert "MyDenoiser" in known_families()
        with pytest.raises(UnsupportedModelError, match="make_inputs"):
            family.sample_inputs(model, height_px=8, width_px=8)
    finally:
        family = find_family(MyDenoiser())
        assert family is not None
        unregister_family(family)
    assert find_family(MyDenoiser()) is None


def _family(name: str, streams: tuple[str, ...] = ("hidden_states",)) -> Family:
    return Family(
        name=name,
        model_classes=("PixArtTransformer2DModel",),
        stacks=(
            Stack(
                path="transformer_blocks",
                alias="b",
                streams=streams,
                sites=(SiteSpec(path="ff", kind="ff"),),
            ),
        ),
        guidance="batched",
        conditioning=("encoder_hidden_states",),
        text="cross",
        latent_layout="BCHW",
        patch=lambda config: (1, 2, 2),
    )


def test_a_registered_family_comes_before_a_shipped_one_and_names_cannot_clash() -> None:
    model = tiny_model("pixart")
    mine = register_family(_family("mine"))
    try:
        assert resolve_family(model) is mine
        assert register_family(mine) is mine
        with pytest.raises(ConfigError, match="already registered by family 'mine'"):
            register_family(_family("other"))
    finally:
        unregister_family(mine)
    assert resolve_family(model).name == "pixart"


def test_a_wrong_stream_name_is_an_error_that_lists_the_right_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"no parameter 'hidden_state'.*hidden_states"):
        _family("typo", streams=("hidden_state",)).bind(tiny_model("pixart"))


def test_subclasses_are_of_the_family_of_their_base() -> None:
    class Tuned(diffusers.PixArtTransformer2DModel):
        pass

    with torch.device("meta"):
        assert find_family(Tuned(num_layers=1)) is find_family(tiny_model("pixart"))


class _Twice(nn.Module):
    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x)
        return x + self.attn(x)


class _Branches(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor, flag: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.attn(x) if flag else self.attn(y)
        x = x + out
        y = out
        return x, y


class _Swapped(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x + self.attn(y)
        y += self.ff(y)
        for layer in self.layers:
            y = layer(y)
        return y, x


def test_the_source_is_read_carefully() -> None:
    assert most_calls(_Twice, "attn") == 2
    assert most_calls(_Branches, "attn") == 1
    assert most_calls(_Swapped, "layers") == 2
    assert most_calls(_Swapped, "absent") == 0
    assert residual_streams(_Twice) == ()  # it returns an expression
    assert residual_streams(_Branches) == ()  # y is not added to
    assert residual_streams(_Swapped) == ("y", "x")
