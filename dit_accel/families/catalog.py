"""Which family a model belongs to: the registered ones by class name, then discovery."""

from torch import nn

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.families.allegro import ALLEGRO
from dit_accel.families.animatediff import ANIMATEDIFF
from dit_accel.families.base import Family
from dit_accel.families.chroma import CHROMA
from dit_accel.families.cogvideox import COGVIDEOX
from dit_accel.families.cogview4 import COGVIEW4
from dit_accel.families.dit import DIT
from dit_accel.families.flux import FLUX
from dit_accel.families.flux2 import FLUX2
from dit_accel.families.hidream import HIDREAM
from dit_accel.families.hunyuan_video import HUNYUAN_VIDEO
from dit_accel.families.hunyuan_video15 import HUNYUAN_VIDEO15
from dit_accel.families.kandinsky5 import KANDINSKY5
from dit_accel.families.ltx import LTX
from dit_accel.families.ltx2 import LTX2
from dit_accel.families.lumina2 import LUMINA2
from dit_accel.families.mochi import MOCHI
from dit_accel.families.pixart import PIXART
from dit_accel.families.qwen_image import QWEN_IMAGE
from dit_accel.families.sana import SANA
from dit_accel.families.sd3 import SD3
from dit_accel.families.svd import SVD
from dit_accel.families.unet import UNET
from dit_accel.families.wan import WAN
from dit_accel.families.wan_animate import WAN_ANIMATE
from dit_accel.families.wan_vace import WAN_VACE
from dit_accel.families.z_image import Z_IMAGE

SHIPPED = (
    *(PIXART, DIT, SD3, FLUX, SANA, QWEN_IMAGE, UNET),
    *(WAN, COGVIDEOX, HUNYUAN_VIDEO, LTX),
    *(FLUX2, Z_IMAGE, HIDREAM, CHROMA, COGVIEW4, LUMINA2),
    *(WAN_VACE, WAN_ANIMATE, LTX2, KANDINSKY5, HUNYUAN_VIDEO15, MOCHI, ALLEGRO),
    *(ANIMATEDIFF, SVD),
)

_shipped = {name: family for family in SHIPPED for name in family.model_classes}
_registered: dict[str, Family] = {}

RECIPE = """\
    from dit_accel.families import Family, SiteSpec, Stack, register_family
    register_family(Family(
        name="mine", model_classes=("{model_class}",),
        stacks=(Stack(path="transformer_blocks", alias="blocks", streams=("hidden_states",), sites=(
            SiteSpec(path="attn1", kind="self_attn"),
            SiteSpec(path="ff", kind="ff"),
        )),),
        guidance="batched", conditioning=("encoder_hidden_states",), text="cross", latent_layout="BCHW",
        patch=lambda config: (1, config["patch_size"], config["patch_size"]),
    ))"""


def unwrapped(model: nn.Module) -> nn.Module:
    """The denoiser inside ``torch.compile``, PEFT and (fully sharded) data-parallel wrappers.

    Only a wrapper that holds nothing but the wrapped module is opened, so that a model with an attribute called
    ``module`` of its own is left alone.
    """
    while True:
        inner = None
        for name in ("_orig_mod", "module", "_fsdp_wrapped_module"):
            candidate = model._modules.get(name)
            if candidate is not None and len(model._modules) == 1:
                inner = candidate
        base_model = model._modules.get("base_model")
        if base_model is not None and hasattr(model, "peft_config"):
            inner = base_model._modules.get("model", base_model)
        if inner is None:
            return model
        model = inner


def find_family(model: nn.Module) -> Family | None:
    """The registered family of a model, by its class and the classes it derives from; ``None`` without one."""
    for cls in type(unwrapped(model)).__mro__:
        if cls.__name__ in _registered:
            return _registered[cls.__name__]
        if cls.__name__ in _shipped:
            return _shipped[cls.__name__]
    return None


def register_family(family: Family) -> Family:
    """Describe a model class of your own; takes precedence over the shipped families and over discovery.

    Raises:
        ConfigError: One of its classes is already registered by another family of yours.
    """
    for name in family.model_classes:
        other = _registered.get(name)
        if other is not None and other != family:
            raise ConfigError(f"model class '{name}' is already registered by family '{other.name}'")
    _registered.update(dict.fromkeys(family.model_classes, family))
    return family


def unregister_family(family: Family) -> None:
    """Forget a family that :func:`register_family` took."""
    for name in family.model_classes:
        _registered.pop(name, None)


def known_families() -> tuple[str, ...]:
    """The model class names that need no discovery."""
    return tuple(dict.fromkeys((*_shipped, *_registered)))


def resolve_family(model: nn.Module) -> Family:
    """The family of a model: registered, shipped, or discovered.

    Raises:
        UnsupportedModelError: Discovery found no repeated attention blocks; the message says what was looked for and
            how to register a family.
    """
    family = find_family(model)
    if family is not None:
        return family
    from dit_accel.families.discovery import discover_family

    model = unwrapped(model)
    try:
        return discover_family(model)
    except UnsupportedModelError as error:
        recipe = RECIPE.format(model_class=type(model).__name__)
        proof = "dit-accel doctor MODEL --check-family --family-file FILE.py"
        raise UnsupportedModelError(
            f"{error}\nTo describe it yourself:\n{recipe}\nand to prove it on the model: `{proof}`"
        ) from None
