"""The sites of a UNet that nobody described: blocks and layers, with no readers named, which is always safe."""

from torch import nn

from dit_accel.families.base import BoundSite, Family, Layout, submodule
from dit_accel.families.leaves import leaf_specs
from dit_accel.schedules.graph import SiteInfo

_RESNETS = ("resnets", "temp_convs")
_RESAMPLERS = ("downsamplers", "upsamplers")


def is_unet(model: nn.Module) -> bool:
    """Whether a model has the two lists of blocks of a UNet. Stable Cascade's are lists of lists: no UNet to us."""
    sides = [submodule(model, name) for name in ("down_blocks", "up_blocks")]
    return all(
        isinstance(side, nn.ModuleList)
        and len(side) > 0
        and not any(isinstance(block, nn.ModuleList | nn.Sequential) for block in side)
        for side in sides
    )


def discovered_unet_layout(family: Family, model: nn.Module) -> Layout:
    """Blocks, their layers where each block has a list of resnets, and the attentions and feed-forwards inside.

    DeepCache's schedule needs no more than this. That a skipped layer's reader is known, and that text projections do
    not change, take proof: a registered family says it (:mod:`dit_accel.families.unet_layout`).
    """
    sites = [BoundSite(info=SiteInfo(id="model", kind="model"), path="")]
    if submodule(model, "conv_in") is not None:
        sites.append(_site("conv_in", "conv_in", None, "model"))
    blocks = [(f"down_blocks.{i}", "down_block") for i in range(len(model.down_blocks))]  # type: ignore[arg-type]
    if submodule(model, "mid_block") is not None:
        blocks.append(("mid_block", "mid_block"))
    blocks += [(f"up_blocks.{i}", "up_block") for i in range(len(model.up_blocks))]  # type: ignore[arg-type]
    for index, (path, kind) in enumerate(blocks):
        block = submodule(model, path)
        assert block is not None
        sites.append(_site(path, kind, index, "model"))
        layers = _layers(block, path, index) if kind != "mid_block" else []
        sites += layers
        inside = tuple(f"{layer.info.id}." for layer in layers)
        for spec in leaf_specs(block):
            leaf = f"{path}.{spec.path}"
            if any(leaf == layer.info.id for layer in layers):
                continue  # UNet2DModel's layers are attentions themselves
            around = next((layer[:-1] for layer in inside if leaf.startswith(layer)), path)
            sites.append(_site(leaf, spec.kind, index, around))
    return Layout(tuple(sites))


def _layers(block: nn.Module, path: str, index: int) -> list[BoundSite]:
    """The k-th member of every list of a block, for each k. Blocks without ``resnets`` count theirs in other ways."""
    if not isinstance(getattr(block, "resnets", None), nn.ModuleList):
        return []
    lists = {name: child for name, child in block.named_children() if isinstance(child, nn.ModuleList)}
    sites = []
    for k in range(max(len(members) for members in lists.values())):
        for name, members in lists.items():
            if k < len(members) and any(True for _ in members[k].parameters()):
                kind = "resnet" if name in _RESNETS else "resample" if name in _RESAMPLERS else "transformer"
                sites.append(_site(f"{path}.{name}.{k}", kind, index, path))
    return sites


def _site(path: str, kind: str, block: int | None, parent: str) -> BoundSite:
    return BoundSite(info=SiteInfo(id=path, kind=kind, block=block, parent=parent), path=path)
