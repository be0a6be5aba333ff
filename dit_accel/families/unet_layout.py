"""Where a UNet's keepable outputs are, and which of them each skip connection feeds."""

from torch import nn

from dit_accel.families.base import BoundSite, Family, Layout, submodule
from dit_accel.schedules.graph import SiteInfo

# Blocks whose layers hand on to each other as (resnet, attention, motion), (resnet, attention, motion), … with what
# they have of it, and whose every layer is a skip. Other blocks (k-diffusion's, skip-convolution ones) get no readers
# named, which is always safe.
_CHAINED = frozenset(
    (
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "SimpleCrossAttnDownBlock2D",
        "SimpleCrossAttnUpBlock2D",
        "ResnetDownsampleBlock2D",
        "ResnetUpsampleBlock2D",
        "DownBlockMotion",
        "CrossAttnDownBlockMotion",
        "UpBlockMotion",
        "CrossAttnUpBlockMotion",
        "DownBlockSpatioTemporal",
        "CrossAttnDownBlockSpatioTemporal",
        "UpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
    )
)
# What follows the k-th resnet of a block, in this order, and its kind. AnimateDiff has motion modules.
_AFTER_RESNET = (("attentions", "transformer"), ("motion_modules", "motion"))
# The blocks inside one of them, called in turns. Stable Video Diffusion has temporal ones.
_INNER = ("transformer_blocks", "temporal_transformer_blocks")
# FreeNoise calls the attentions of such a block once for every window of frames: they keep nothing.
_WINDOWED = frozenset(("FreeNoiseTransformerBlock",))


class _Builder:
    """Collects the sites of one UNet in execution order."""

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet
        self.down = _count(unet, "down_blocks")
        self.up = _count(unet, "up_blocks")
        blocks = [submodule(unet, f"{side}.{i}") for side, n in self._sides() for i in range(n)]
        self.chained = all(type(block).__name__ in _CHAINED for block in blocks)
        self.sites: list[BoundSite] = []

    def _sides(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return (("down_blocks", self.down), ("up_blocks", self.up))

    def add(
        self,
        path: str,
        kind: str,
        block: int | None,
        parent: str,
        feeds: tuple[str, ...] = (),
        *,
        auxiliary: bool = False,
        invariant: bool = False,
    ) -> None:
        info = SiteInfo(
            id=path,
            kind=kind,
            block=block,
            parent=parent,
            feeds=feeds if self.chained or auxiliary else (),
            auxiliary=auxiliary,
            invariant=invariant,
        )
        self.sites.append(BoundSite(info=info, path=path))

    def build(self) -> Layout:
        self.sites.append(BoundSite(info=SiteInfo(id="model", kind="model"), path=""))
        skips = self._skip_readers()
        has_mid = submodule(self.unet, "mid_block") is not None
        middle = "mid_block" if has_mid else "up_blocks.0.resnets.0"
        self.add("conv_in", "conv_in", None, "model", ("down_blocks.0.resnets.0", *skips[:1]))
        taken = 1
        for i in range(self.down):
            following = f"down_blocks.{i + 1}.resnets.0" if i + 1 < self.down else middle
            made = self._skips_of(i)
            path = f"down_blocks.{i}"
            self.add(path, "down_block", i, "model", tuple(dict.fromkeys((following, *skips[taken : taken + made]))))
            taken += made
            self._layers(path, i, down=True)
        if has_mid:
            self.add("mid_block", "mid_block", self.down, "model", ("up_blocks.0.resnets.0",))
            for k in range(_count(self.unet, "mid_block.attentions")):
                for name, _ in _AFTER_RESNET:
                    self._transformer(f"mid_block.{name}.{k}", self.down, "mid_block")
        for j in range(self.up):
            path = f"up_blocks.{j}"
            following_up = (f"up_blocks.{j + 1}.resnets.0",) if j + 1 < self.up else ()
            self.add(path, "up_block", self.down + 1 + j, "model", following_up)
            self._layers(path, self.down + 1 + j, down=False)
        return Layout(tuple(self.sites))

    def _skips_of(self, i: int) -> int:
        """How many skips down block ``i`` returns: one per layer, one for its downsampler."""
        layers = _count(self.unet, f"down_blocks.{i}.resnets")
        return layers + (submodule(self.unet, f"down_blocks.{i}.downsamplers.0") is not None)

    def _skip_readers(self) -> list[str]:
        """The up resnet that reads each skip, in the order in which the skips are made: last in, first out."""
        if not self.chained:
            return []
        readers = [
            f"up_blocks.{j}.resnets.{k}"
            for j in range(self.up)
            for k in range(_count(self.unet, f"up_blocks.{j}.resnets"))
        ]
        return readers[::-1]

    def _layers(self, path: str, block: int, *, down: bool) -> None:
        """The resnets, attentions and motion modules of one block, each feeding the next if nothing else reads it."""
        resnets = _count(self.unet, f"{path}.resnets")
        counts = {name: _count(self.unet, f"{path}.{name}") for name, _ in _AFTER_RESNET}
        for k in range(resnets):
            # Down: every layer's result is also a skip. Up: the last one's is the block's own output.
            onward = () if down or k + 1 == resnets else (f"{path}.resnets.{k + 1}",)
            after = [(f"{path}.{name}.{k}", kind) for name, kind in _AFTER_RESNET if k < counts[name]]
            readers = [*((layer,) for layer, _ in after), onward]
            self.add(f"{path}.resnets.{k}", "resnet", block, path, readers[0])
            for (layer, kind), reader in zip(after, readers[1:], strict=True):
                self.add(layer, kind, block, path, reader)
                self._transformer(layer, block, layer)
        for name in ("downsamplers", "upsamplers"):
            for k in range(_count(self.unet, f"{path}.{name}")):
                self.add(f"{path}.{name}.{k}", "resample", block, path)

    def _transformer(self, path: str, block: int, parent: str) -> None:
        """The attentions and feed-forwards inside one transformer; each temporal block follows a spatial one."""
        for m in range(_count(self.unet, f"{path}.transformer_blocks")):
            for name in _INNER:
                inner = submodule(self.unet, f"{path}.{name}.{m}")
                if inner is not None and type(inner).__name__ not in _WINDOWED:
                    self._leaves(f"{path}.{name}.{m}", block, parent)

    def _leaves(self, prefix: str, block: int, parent: str) -> None:
        """The attentions and feed-forwards of one transformer block, each behind its norm."""
        for norm, name in (("norm_in", "ff_in"), ("norm1", "attn1"), ("norm2", "attn2"), ("norm3", "ff")):
            leaf = submodule(self.unet, f"{prefix}.{name}")
            if leaf is None:
                continue
            if isinstance(submodule(self.unet, f"{prefix}.{norm}"), nn.LayerNorm):
                self.add(f"{prefix}.{norm}", "norm", block, parent, (f"{prefix}.{name}",), auxiliary=True)
            # SD x4 upscaler and some others attend to the text in attn1 too.
            cross = bool(getattr(leaf, "is_cross_attention", False))
            kind = "ff" if name.startswith("ff") else "cross_attn" if cross else "self_attn"
            self.add(f"{prefix}.{name}", kind, block, parent)
            for projection in ("to_k", "to_v") if cross else ():
                attention = f"{prefix}.{name}"
                self.add(f"{attention}.{projection}", "text", block, attention, invariant=True)


def _count(model: nn.Module, path: str) -> int:
    """Length of the module list at a path; 0 when there is none, or it holds ``None``."""
    modules = submodule(model, path)
    if modules is None:
        return 0
    return sum(1 for module in modules.children() if module is not None)


def unet_layout(family: Family, model: nn.Module) -> Layout:
    """Sites of a UNet of diffusers, with the readers of every skip connection where its blocks are known.

    ``down_blocks.i`` keeps what the block returns, the tuple (hidden, skips). A block that runs while its layers are
    reused is what DeepCache does (Ma et al., 2312.00858); keeping ``conv_in``, every ``down_blocks.i`` and
    ``mid_block`` is Faster Diffusion's encoder propagation (Li et al., 2312.09608).
    """
    return _Builder(model).build()
