"""Which UNet sites the two classic UNet schedules run on a cached step; reads site ids and kinds only."""

from dit_accel.errors import ConfigError
from dit_accel.schedules.graph import SiteGraph


def encoder_sites(graph: SiteGraph) -> tuple[str, ...]:
    """What Faster Diffusion keeps: ``conv_in``, the down blocks and the mid block (Li et al., 2312.09608).

    Raises:
        ConfigError: The graph is not a UNet's.
    """
    sites = tuple(site.id for site in graph if site.kind in ("conv_in", "down_block", "mid_block"))
    if not sites:
        raise ConfigError("this denoiser has no encoder: no conv_in, down_block or mid_block among its sites")
    return sites


def branch_sites(graph: SiteGraph, block: int, layer: int) -> frozenset[str]:
    """What DeepCache still computes on a cached step, for the skip branch (``block``, ``layer``).

    Branch (0, 0) is the cheapest: ``conv_in`` and the last up layer. The branch counts as in the DeepCache reference:
    down layers before ``layer`` of down block ``block`` and all of the blocks above it, and the up layers that read
    the skips made there. Everything else is reused.

    Args:
        graph: Sites of a UNet.
        block: Down block of the branch, 0 is the one with the finest grid.
        layer: Layer within the block; the block has as many branches as its up block has resnets.

    Raises:
        ConfigError: The graph is not a UNet's, or has no such branch.
    """
    downs = [site.id for site in graph if site.kind == "down_block"]
    ups = [site.id for site in graph if site.kind == "up_block"]
    if not downs or not 0 <= block < len(downs):
        raise ConfigError(f"no down block {block}: this denoiser has {len(downs)} down blocks")
    branch_up = ups[len(ups) - 1 - block]
    layers = sum(1 for site in graph if site.parent == branch_up and site.kind == "resnet")
    if not 0 <= layer < layers:
        raise ConfigError(f"no layer {layer} in block {block}: it has {layers}")

    computed = {"model", "conv_in"}
    for site in graph:
        top = next((b for b in (*downs, *ups) if site.id == b or site.id.startswith(b + ".")), None)
        if top is None:
            continue
        position = _layer_of(site.id, top)
        if top in downs:
            index = downs.index(top)
            partial = index == block and layer > 0 and (position is None or 0 <= position < layer)
            if index < block or partial:
                computed.add(site.id)
        else:
            index = len(ups) - 1 - ups.index(top)
            partial = index == block and (position is None or position < 0 or layers - 1 - position <= layer)
            if index < block or partial:
                computed.add(site.id)
    return frozenset(computed)


def _layer_of(site_id: str, block_id: str) -> int | None:
    """Layer of a resnet, attention or what is inside it; -1 for a resampler, ``None`` for the block itself."""
    if site_id == block_id:
        return None
    name, number = site_id[len(block_id) + 1 :].split(".")[:2]
    return int(number) if name in ("resnets", "attentions") else -1
