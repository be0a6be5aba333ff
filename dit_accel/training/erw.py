"""ERW: the first blocks of a transformer learn to read images before the whole of it learns to draw.

Embedded Representation Warmup (arXiv 2504.10188). Phase 1 trains the first blocks and a projector on clean latents at
t = 0 to agree with the patch features of a frozen network. Phase 2 is the usual training from there, with the
agreement at one block as a second loss whose weight falls, lambda(k) = lambda(0) exp(-k / tau).

Departures. The loss is the negative cosine of the released code, with every projection normalised, where the paper
writes NT-Xent. Captions are empty in phase 1, so that the image is read and not its caption guessed from. DINOv2
cannot be had offline: the network is ST-LPIPS' AlexNet, and not EfficientNet-Lite0, which is the judge of our pictures
and must not be trained against. Its features are centred over the training images, since what all of them share would
make any two of them agree.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.training.kinds import Modules, PipelineKind
from dit_accel.training.loop import LoopConfig, TrainLoop

WEIGHTS_FILE = "warmup.safetensors"
ENLARGED = 2  # AlexNet learned on larger pictures than ours
STEM = ("pos_embed", "adaln_single")

Encoder = Callable[[torch.Tensor], torch.Tensor]
"""Images in [0, 1], [B, 3, H, W], to patch features [B, D, h, w]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ERWConfig:
    """Settings.

    Attributes:
        blocks: How many of the first blocks are warmed up.
        align_block: After which block, counted from 1, agreement is asked for in the usual training.
        weight: Of it at the start; with 0 it only watches.
        decay_frac: Share of the training after which the weight has fallen to 1 / e.
        width: Of the projector.
    """

    blocks: int = 2
    align_block: int = 4
    weight: float = 0.5
    decay_frac: float = 0.3
    width: int = 256

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.align_block < 1 or self.width < 1:
            raise ConfigError(f"blocks, align_block and width must be positive, got {self}")
        if self.weight < 0 or self.decay_frac <= 0:
            raise ConfigError(f"weight must be 0 or more and decay_frac positive, got {self}")

    def weight_at(self, progress: float) -> float:
        """Weight of the agreement at a fraction of the training."""
        return self.weight * math.exp(-progress / self.decay_frac)


class Projector(nn.Module):
    """Turns a block's tokens into the frozen network's features.

    Args:
        denoiser: Its forward pass is watched from now on.
        block: After which block, counted from 1.
        out_features: D of the frozen network.
        width: Of the two inner layers.

    Raises:
        ConfigError: The denoiser has fewer blocks.
    """

    def __init__(self, denoiser: Any, block: int, out_features: int, width: int) -> None:
        super().__init__()
        blocks = denoiser.transformer_blocks
        if block > len(blocks):
            raise ConfigError(f"representations cannot be read after block {block}: there are {len(blocks)}")
        dim = denoiser.config.num_attention_heads * denoiser.config.attention_head_dim
        self.layers = nn.Sequential(
            nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, out_features)
        )
        self.seen: torch.Tensor | None = None
        blocks[block - 1].register_forward_hook(self._watch)

    def _watch(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.seen = output

    def loss(self, wanted: torch.Tensor) -> torch.Tensor:
        """1 minus the mean cosine between what was seen last and unit features [B, N, D]."""
        assert self.seen is not None
        found = F.normalize(self.layers(self.seen).float(), dim=-1)
        return 1 - (found * wanted).sum(-1).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The second loss of the usual training.

    Attributes:
        config: Its weight.
        projector: Trained along.
        features: Unit features of the training images, [M, N, D].
    """

    config: ERWConfig
    projector: Projector
    features: torch.Tensor


def alexnet_encoder() -> Encoder:
    """The last features of ST-LPIPS' AlexNet, of images enlarged twofold.

    Raises:
        MissingDependencyError: The package of its weights (extra ``eval``) is not installed.
    """
    from dit_accel.evaluation.metrics.st_lpips import STLPIPS

    network = STLPIPS()

    def encode(images: torch.Tensor) -> torch.Tensor:
        larger = F.interpolate(images, scale_factor=ENLARGED, mode="bilinear", align_corners=False)
        return network.features(larger)[-1]

    return encode


@torch.no_grad()
def unit_features(encode: Encoder, images: torch.Tensor, grid: tuple[int, int], batch_size: int = 32) -> torch.Tensor:
    """Features of images on the denoiser's grid of tokens, centred over all of them, of unit length.

    Args:
        encode: The frozen network.
        images: uint8 [M, 3, H, W].
        grid: Rows and columns of tokens.
        batch_size: Images at once.

    Returns:
        float32 [M, N, D].
    """
    maps = [F.adaptive_avg_pool2d(encode(part.float() / 255), grid) for part in images.split(batch_size)]
    tokens = torch.cat(maps).flatten(2).transpose(1, 2)
    return F.normalize(tokens - tokens.mean(dim=(0, 1)), dim=-1)


def token_grid(denoiser: Any, latent_shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of tokens of an image's latents [C, h, w]."""
    patch = denoiser.config.patch_size
    return latent_shape[-2] // patch, latent_shape[-1] // patch


@contextlib.contextmanager
def first_blocks(denoiser: Any, count: int) -> Iterator[None]:
    """The denoiser is cut off after so many blocks while it lasts."""
    whole = denoiser.transformer_blocks
    denoiser.transformer_blocks = whole[:count]
    try:
        yield
    finally:
        denoiser.transformer_blocks = whole


def warmup_loop(
    kind: PipelineKind,
    modules: Modules,
    data: Any,
    features: torch.Tensor,
    erw: ERWConfig,
    config: LoopConfig,
    *,
    run_dir: Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> TrainLoop:
    """Phase 1: set up the training of the first blocks; what else the denoiser has is left as it is.

    Args:
        kind: Of the pipeline.
        modules: Untrained text encoders and denoiser, by component name.
        data: Encoded images, a ``LatentData``.
        features: From :func:`unit_features`, of these images.
        erw: Which blocks.
        config: Length and rates.
        run_dir: Folder of checkpoint and log.
        seed: Of everything random.
        dtype: Autocast type.
    """
    denoiser: Any = modules[kind.denoiser_name]
    device = denoiser.device
    kind.prepare_training(denoiser)
    for module in modules.values():
        module.requires_grad_(False)
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(is_warmed(name, erw))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        projector = Projector(denoiser, erw.blocks, features.shape[-1], erw.width).to(device)
    data, features = data.to(device), features.to(device)

    def loss_fn(generator: torch.Generator) -> torch.Tensor:
        batch = data.draw(config.batch_size, loop.step / config.steps, 1.0, generator)
        t = torch.zeros(len(batch.clean), dtype=torch.long, device=device)
        with first_blocks(denoiser, erw.blocks), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                condition = kind.encode(modules, batch.text)
            kind.predict(denoiser, batch.clean, t, condition)
            return projector.loss(features[batch.image])

    loop = TrainLoop(
        name="warmup", modules={kind.denoiser_name: denoiser, "projector": projector}, loss_fn=loss_fn, config=config,
        run_dir=run_dir, seed=seed, draw_device=device,
    )  # fmt: skip
    return loop


def is_warmed(name: str, erw: ERWConfig) -> bool:
    """Whether a parameter of the denoiser belongs to what phase 1 trains: the first blocks and what feeds them."""
    head, _, rest = name.partition(".")
    return head in STEM or (head == "transformer_blocks" and int(rest.partition(".")[0]) < erw.blocks)


def save_warmed(denoiser: nn.Module, erw: ERWConfig, run_dir: Path) -> None:
    """Keep what phase 1 has trained."""
    state = {name: value.detach().cpu() for name, value in denoiser.named_parameters() if is_warmed(name, erw)}
    save_file({name: value.contiguous() for name, value in state.items()}, run_dir / WEIGHTS_FILE)


@torch.no_grad()
def load_warmed(denoiser: nn.Module, run_dir: Path) -> None:
    """Begin phase 2 from what phase 1 has trained.

    Raises:
        DitAccelError: There is none, or it is of another denoiser.
    """
    file = run_dir / WEIGHTS_FILE
    if not file.exists():
        raise DitAccelError(f"There are no warmed-up blocks at {file}: run the stage 'warmup' first.")
    own = dict(denoiser.named_parameters())
    for name, value in load_file(file).items():
        if name not in own or own[name].shape != value.shape:
            raise DitAccelError(f"{file} is of another denoiser ('{name}' differs): run the stage 'warmup' again.")
        own[name].copy_(value)
