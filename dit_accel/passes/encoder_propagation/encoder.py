"""The modules of an encoder, and what stands in their place: run for one step, answer for several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import BoundSite, submodule
from dit_accel.families.catalog import find_family
from dit_accel.families.targets import Target
from dit_accel.passes.encoder_propagation.config import (
    NAME,
    PUBLISHED_BLOCKS_FRAC,
    USUAL_PARALLEL,
    EncoderPropagationConfig,
)
from dit_accel.runtime.ledger import PatchLedger
from dit_accel.runtime.patch import Patch
from dit_accel.runtime.trees import Tree, map_tree

UNET_ENCODER = ("conv_in", "down_block", "mid_block")


@dataclass(slots=True)
class Fan:
    """How the denoiser call that is running treats its encoder.

    Attributes:
        width: How many steps the call is for; item b of step s lies at b * width + s of its batch, so that whoever
            splits a batch into guidance branches finds them where they were.
        batch: Items of one step.
        kept: What the encoder gave at a key step, by the place of the module in it.
        recalls: Whether the encoder is answered from ``kept``.
        keeps: Whether it has to be kept for later decoders.
    """

    width: int
    batch: int
    kept: dict[int, Tree]
    recalls: bool
    keeps: bool

    def narrowed(self, tree: Tree) -> Tree:
        """Arguments of one step's worth of items: those of the first step."""
        if self.width == 1:
            return tree
        return map_tree(lambda x: x[:: self.width] if self._is_full(x) else x, tree)

    def widened(self, tree: Tree) -> Tree:
        """One step's worth of items for every step, a copy of what is kept: native code may write into it (FreeU).

        A tensor that occurs twice is one tensor afterwards, too.
        """
        if self.width == 1 and not (self.keeps or self.recalls):
            return tree
        made: dict[int, torch.Tensor] = {}

        def widen(x: torch.Tensor) -> torch.Tensor:
            if id(x) not in made:
                made[id(x)] = x.clone() if self.width == 1 else x.repeat_interleave(self.width, dim=0)
            return made[id(x)]

        return map_tree(widen, tree)

    def _is_full(self, x: torch.Tensor) -> bool:
        return x.dim() > 0 and x.shape[0] == self.batch * self.width


class Stage:
    """Holds the fan of the call that is running; empty, everything computes as ever."""

    def __init__(self) -> None:
        self.fan: Fan | None = None


class EncoderForward(Patch[nn.Module]):
    """A module of the encoder.

    Args:
        module: It.
        stage: Of the denoiser.
        place: Which one of the encoder it is.
        hands_on: For blocks of a transformer whose output only the next block reads: the streams that they would
            change. Nothing is kept of them.
    """

    def __init__(self, module: nn.Module, stage: Stage, place: int, hands_on: tuple[tuple[int, str], ...]) -> None:
        super().__init__(module, "forward")
        self.stage = stage
        self.place = place
        self.hands_on = hands_on

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        fan = self.stage.fan
        if fan is None:
            return self.original(*args, **kwargs)
        if fan.recalls:
            if self.hands_on:
                given = tuple(args[at] if at < len(args) else kwargs.get(name) for at, name in self.hands_on)
                return given if len(given) > 1 else given[0]
            return fan.widened(fan.kept[self.place])
        output = self.original(*fan.narrowed(args), **fan.narrowed(kwargs))
        if fan.keeps and not self.hands_on:
            fan.kept[self.place] = output
        return fan.widened(output)


class Encoder:
    """Keeps the encoder of one denoiser wrapped, wherever adapters have moved its modules.

    Args:
        target: The denoiser.
        config: The plan.
        ledger: Records every patch.
    """

    def __init__(self, target: Target, config: EncoderPropagationConfig, ledger: PatchLedger) -> None:
        self.denoiser = target.denoiser
        self.sites = encoder_sites(target, config)
        self.stage = Stage()
        self.ledger = ledger
        self._wrapped: dict[int, EncoderForward] = {}

    def ensure(self) -> None:
        """Wrap what is not wrapped where it now is."""
        for place, site in enumerate(self.sites):
            module = submodule(self.denoiser, site.path)
            wrapped = self._wrapped.get(place)
            if module is None or (wrapped is not None and wrapped.owner is module and wrapped.in_place()):
                continue
            if wrapped is not None:
                self.ledger.undo_on(wrapped.owner, by=NAME)
            forward = EncoderForward(module, self.stage, place, self._hands_on(place))
            self.ledger.set(module, "forward", forward, by=NAME)
            self._wrapped[place] = forward

    def _hands_on(self, place: int) -> tuple[tuple[int, str], ...]:
        """The streams of a block whose output only the next block of its list reads."""
        here, following = self.sites[place], self.sites[place + 1 : place + 2]
        is_inner = any(_list_of(site) == _list_of(here) for site in following)
        # A model that nobody described may have connections from block to later block.
        return here.streams if is_inner and find_family(self.denoiser) is not None else ()


def encoder_sites(target: Target, config: EncoderPropagationConfig) -> tuple[BoundSite, ...]:
    """The encoder's modules, in the order in which they run; empty if there is none, see :func:`obstacles`."""
    sites = target.layout.sites
    if _is_unet(sites):
        return tuple(site for site in sites if site.info.kind in UNET_ENCODER)
    blocks = tuple(site for site in sites if site.info.kind == "block")
    count = round(PUBLISHED_BLOCKS_FRAC * len(blocks)) if config.first_blocks is None else config.first_blocks
    return blocks[:count]


def obstacles(target: Target, config: EncoderPropagationConfig) -> list[str]:
    """Why the encoder of this denoiser cannot serve several steps; empty if it can."""
    sites, name = target.layout.sites, type(target.denoiser).__name__
    if _is_unet(sites):
        if config.first_blocks is not None:
            return [f"{name} is a UNet, whose encoder is what it is: leave 'first_blocks' out"]
        return _no_batches(target, config)
    blocks = [site for site in sites if site.info.kind == "block"]
    if not blocks:
        return ["it has no encoder: neither skip connections nor blocks that hand on a residual stream were found"]
    if config.first_blocks is not None and config.first_blocks >= len(blocks):
        return [f"it has {len(blocks)} blocks, and 'first_blocks' = {config.first_blocks} leaves none to the decoder"]
    chosen = encoder_sites(target, config)
    if not chosen:
        return [f"its {len(blocks)} blocks are too few to be split into an encoder and a decoder"]
    if not all(site.streams for site in chosen):
        return ["what its blocks hand on to each other is not known"]
    return _no_batches(target, config)


def _no_batches(target: Target, config: EncoderPropagationConfig) -> list[str]:
    if config.max_parallel in (None, 1) or takes_batches(target):
        return []
    return [
        f"the decoders of several steps cannot run in one batch of a '{target.family.name}' model (its tensors do not "
        "all begin with the batch): set max_parallel=1"
    ]


def takes_batches(target: Target) -> bool:
    """Whether items of several steps can be told apart: every tensor of a call begins with the batch, or has none."""
    return target.family.latent_layout == "BCHW" and target.family.text in ("cross", "pooled", "none")


def widest(target: Target, config: EncoderPropagationConfig) -> int:
    """How many steps go through one batch of decoders at most."""
    return config.max_parallel or (USUAL_PARALLEL if takes_batches(target) else 1)


def _is_unet(sites: tuple[BoundSite, ...]) -> bool:
    kinds = {site.info.kind for site in sites}
    return {"down_block", "up_block"} <= kinds


def _list_of(site: BoundSite) -> str:
    return site.path.rpartition(".")[0]


def batch_of(named: Mapping[str, Any]) -> int:
    """Items of a call, from its latents; 1 where they come as a list, for they are not put into batches."""
    latents = next(iter(named.values()))
    return int(latents.shape[0]) if isinstance(latents, torch.Tensor) else 1
