"""What the rest of the code knows of a model: a Family is data, a Layout is that data found in one live model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.sample import Sample
from dit_accel.families.source import stream_positions
from dit_accel.families.tokens import TokenGrid
from dit_accel.schedules.graph import SiteGraph, SiteInfo

Guidance = Literal["batched", "two_calls", "distilled", "unknown"]
TextPosition = Literal["cross", "prefix", "suffix", "pooled", "none", "unknown"]
LatentLayout = Literal["BCHW", "BCFHW", "BFCHW", "BFHWC", "BNC", "list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSpec:
    """A module inside a block (or, for ``Family.extras``, inside the denoiser) whose output can be kept.

    Attributes:
        path: Attribute path from the block, e.g. ``"attn1"`` or ``"norm1.norm"``.
        kind: See :class:`dit_accel.schedules.graph.SiteInfo`.
        feeds: Paths of the only readers, in the same block (in the denoiser, for extras).
        auxiliary: Runs only when a reader is computed; returns a stand-in otherwise, so it must be a
            module whose first argument and output are one tensor each, of the same shape.
        full_length: For an auxiliary: native code in front of its readers needs all tokens (it folds the sequence
            into an image, say), so that the stand-in may not be shorter.
        invariant: Same output at every step while the conditioning is the same object.
    """

    path: str
    kind: str
    feeds: tuple[str, ...] = ()
    auxiliary: bool = False
    full_length: bool = False
    invariant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A ``ModuleList`` of like blocks.

    Attributes:
        path: Attribute path of the list, e.g. ``"transformer_blocks"``.
        alias: Prefix of site ids, e.g. ``"blocks"`` gives ``"blocks.3.attn1"``.
        streams: Parameter names of the block's ``forward`` that carry the residual streams, in the order in which
            the block returns them. One name: the block returns one tensor. Empty: the block is no site of its own.
            A block may return ``None`` for a stream that nobody reads after it (the last block of SD3).
        sites: The leaf modules. A path that a given block lacks is left out for that block.
    """

    path: str
    alias: str
    streams: tuple[str, ...]
    sites: tuple[SiteSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundSite:
    """A site found in a live model.

    Attributes:
        info: The site as the schedules see it.
        path: Attribute path from the denoiser; empty for the denoiser itself.
        streams: For a whole block on the residual stream: positions and names of its stream arguments, in the order
            of its outputs. What is kept is then output minus input. Empty: the output itself is kept.
        full_length: See :class:`SiteSpec`.
    """

    info: SiteInfo
    path: str
    streams: tuple[tuple[int, str], ...] = ()
    full_length: bool = False


@dataclass(frozen=True)
class Layout:
    """The sites of one live denoiser, in execution order."""

    sites: tuple[BoundSite, ...]
    graph: SiteGraph = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graph", SiteGraph(tuple(site.info for site in self.sites)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Facts about one kind of denoiser.

    Attributes:
        name: Short name, e.g. ``"flux"``.
        model_classes: Class names of the denoisers it describes.
        stacks: The block lists, in execution order.
        extras: Sites of the denoiser outside its blocks (a caption projection).
        guidance: How stock pipelines run classifier-free guidance: one batch of two, two calls, or distilled;
            ``unknown`` for a discovered model.
        conditioning: Parameter names of the denoiser's ``forward`` that carry the prompt, most telling first.
        text: Where text tokens sit: ``cross`` (cross-attention only), ``prefix`` or ``suffix`` of the joint sequence,
            ``pooled`` (only in the modulation), ``none``; ``unknown`` for a discovered model.
        latent_layout: Axes of the latent argument; ``BNC`` is already packed into tokens, ``list`` is one
            ``(C, F, H, W)`` tensor per image.
        patch: Function of the model's config to the patch size (frames, height, width) in latent cells.
        vae_scale: Pixels per latent cell of the usual VAE: (frames, height and width).
        text_tokens: Prompt length in the stock pipelines.
        default_px: Height and width at which the family is usually run.
        default_frames: Frames at which the family is usually run; 1 for images.
        token_grid: Function of (model, arguments of a live call by name) to the frames, rows and columns of its
            tokens, or to a :class:`TokenGrid` where there may be reference pictures, or text
            that does not just stand before or after; needed for packed latents (``BNC``), else their shape tells.
        make_inputs: Function of (model, :class:`Sample`) to the keyword arguments of one denoiser call.
        on_shapes: Function of a weightless copy of the model that makes it run although there are no values to read
            (which expert does a token go to?), at the same cost; needed only where the model's code reads values.
        graph_break: Why the model's own code does not compile into one whole graph; ``None``: it does.
        layout: Finds the sites; ``None`` takes them from ``stacks`` and ``extras`` (all but UNets).
        notes: What a user should know, one sentence each; printed by ``dit-accel doctor``.
    """

    name: str
    model_classes: tuple[str, ...]
    stacks: tuple[Stack, ...] = ()
    extras: tuple[SiteSpec, ...] = ()
    guidance: Guidance
    conditioning: tuple[str, ...]
    text: TextPosition
    latent_layout: LatentLayout
    patch: Callable[[Mapping[str, Any]], tuple[int, int, int]]
    vae_scale: tuple[int, int] = (1, 8)
    text_tokens: int = 77
    default_px: int = 1024
    default_frames: int = 1
    token_grid: Callable[[nn.Module, Mapping[str, Any]], tuple[int, int, int] | TokenGrid | None] | None = None
    make_inputs: Callable[[nn.Module, Sample], dict[str, Any]] | None = None
    on_shapes: Callable[[nn.Module], None] | None = None
    graph_break: str | None = None
    layout: Callable[["Family", nn.Module], Layout] | None = None
    notes: tuple[str, ...] = ()

    def bind(self, model: nn.Module) -> Layout:
        """Find this family's sites in ``model``."""
        return (self.layout or layout_from_stacks)(self, model)

    def latent_size(self, shape: Sequence[int]) -> tuple[int, ...]:
        """What is left of the latents' shape without batch and channels; of one image where they come as a list.

        Latents of another rank (sound, an embedding; the layout of a discovered model is a guess) have no axes that we
        know: then all but the batch.
        """
        axes = "CFHW" if self.latent_layout == "list" else self.latent_layout
        if len(axes) != len(shape):
            return tuple(shape[1:])
        return tuple(size for axis, size in zip(axes, shape, strict=True) if axis not in "BC")

    def grid(
        self,
        model: nn.Module,
        *,
        height_px: int,
        width_px: int,
        num_frames: int = 1,
        vae_scale: tuple[int, int] | None = None,
    ) -> tuple[int, int, int]:
        """The token grid (frames, rows, columns) that an output of this size is denoised on."""
        temporal, spatial = vae_scale or self.vae_scale
        patch = self.patch(config_of(model))
        frames = (num_frames - 1) // temporal + 1
        return (-(-frames // patch[0]), height_px // spatial // patch[1], width_px // spatial // patch[2])

    def sample_inputs(
        self,
        model: nn.Module,
        *,
        height_px: int,
        width_px: int,
        num_frames: int = 1,
        batch: int = 1,
        text_tokens: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        vae_scale: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Keyword arguments of one call ``model(**inputs)``, random where values matter.

        Args:
            model: The denoiser; its config gives the channel counts.
            height_px: Output height in pixels.
            width_px: Output width in pixels.
            num_frames: Output frames.
            batch: Batch size of the call; classifier-free guidance in one batch doubles it.
            text_tokens: Prompt length; by default what the stock pipeline uses.
            device: Of the tensors; by default the model's.
            dtype: Of the tensors; by default the model's.
            vae_scale: Pixels per latent cell (frames, height and width) of a VAE that is not the usual one.
            seed: Of the random values.

        Raises:
            UnsupportedModelError: The family cannot build inputs (a discovered model of unknown signature).
        """
        if self.make_inputs is None:
            raise UnsupportedModelError(
                f"family '{self.name}' cannot build inputs for {type(model).__name__}; give its Family a "
                "`make_inputs(model, sample)` that returns the keyword arguments of one call"
            )
        temporal, spatial = vae_scale or self.vae_scale
        parameter = next(model.parameters())
        sample = Sample(
            batch=batch,
            frames=(num_frames - 1) // temporal + 1,
            height=height_px // spatial,
            width=width_px // spatial,
            text_tokens=self.text_tokens if text_tokens is None else text_tokens,
            device=torch.device(device) if device is not None else parameter.device,
            dtype=dtype or parameter.dtype,
            generator=torch.Generator().manual_seed(seed),
        )
        return self.make_inputs(model, sample)


def config_of(model: nn.Module) -> Mapping[str, Any]:
    """The model's config; empty for a model without one."""
    config: Mapping[str, Any] = getattr(model, "config", None) or {}
    return config


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """The module at an attribute path, or ``None``; an empty path is the model itself."""
    module: Any = model
    for name in path.split(".") if path else ():
        module = getattr(module, name, None)
        if module is None:
            return None
    return module if isinstance(module, nn.Module) else None


def layout_from_stacks(family: Family, model: nn.Module) -> Layout:
    """The whole model, its extras, then every block with its leaf sites, in execution order."""
    sites = [BoundSite(info=SiteInfo(id="model", kind="model"), path="")]
    for spec in family.extras:
        if submodule(model, spec.path) is not None:
            sites.append(_bound(spec, parent="model", block=None, prefix="", path_prefix="", present=None))
    index = 0
    for stack in family.stacks:
        blocks = submodule(model, stack.path)
        for position, block in enumerate(blocks.children() if blocks is not None else ()):
            sites.extend(_block_sites(stack, position, index, block))
            index += 1
    return Layout(tuple(sites))


def _block_sites(stack: Stack, position: int, index: int, block: nn.Module) -> Iterator[BoundSite]:
    """The block itself, when its streams are known, and its leaf sites in the order in which the stack lists them."""
    block_id, block_path = f"{stack.alias}.{position}", f"{stack.path}.{position}"
    top = "model"
    if stack.streams:
        info = SiteInfo(id=block_id, kind="block", block=index, parent="model")
        yield BoundSite(info=info, path=block_path, streams=stream_positions(block, stack.streams))
        top = block_id
    present = [spec for spec in stack.sites if submodule(block, spec.path) is not None]
    paths = {spec.path for spec in present}
    for spec in present:
        enclosing = _enclosing(spec.path, paths)
        parent = f"{block_id}.{enclosing}" if enclosing else top
        bound = _bound(spec, parent, index, f"{block_id}.", f"{block_path}.", paths)
        # A norm whose only reader this block lacks has nothing to wait for.
        if not (bound.info.auxiliary and not bound.info.feeds):
            yield bound


def _enclosing(path: str, paths: set[str]) -> str | None:
    """The longest other site path that ``path`` lies inside of."""
    outer = [other for other in paths if other != path and path.startswith(other + ".")]
    return max(outer, key=len, default=None)


def _bound(
    spec: SiteSpec, parent: str, block: int | None, prefix: str, path_prefix: str, present: set[str] | None
) -> BoundSite:
    feeds = tuple(prefix + reader for reader in spec.feeds if present is None or reader in present)
    info = SiteInfo(
        id=prefix + spec.path,
        kind=spec.kind,
        block=block,
        parent=parent,
        feeds=feeds,
        auxiliary=spec.auxiliary,
        invariant=spec.invariant,
    )
    return BoundSite(info=info, path=path_prefix + spec.path, full_length=spec.full_length)
