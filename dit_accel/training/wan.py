"""Joint training of a text encoder and a Wan video transformer by flow matching, mostly on a few frames at a time.

Flow matching: Lipman et al. 2023 (2210.02747); the straight path and the shifted timesteps are those of Esser et al.
2024 (2403.03206), as in Wan. Timesteps are stratified over the batch, as in ``denoiser.py``.

A video of 16 frames is 1,024 tokens, ten times the cost of an image. Most steps therefore see ``k`` of its frames
only, each with the rotary position of its true time: appearance and motion are learned on 64 or 256 tokens, and the
last part of the training sees whole videos.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanRotaryPosEmbed
from transformers import UMT5Config, UMT5EncoderModel

from dit_accel.errors import ConfigError
from dit_accel.training.loop import LoopConfig, SampleFn, TrainLoop

FLOW_SHIFT = 3.0
TIMESTEPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePhase:
    """A part of the training and how many frames its steps see.

    Attributes:
        until_frac: Where the phase ends, as a fraction of all steps.
        frames: Numbers of frames a step may see, each with its probability.
    """

    until_frac: float
    frames: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.until_frac <= 1:
            raise ConfigError(f"until_frac must lie in (0, 1], got {self.until_frac}.")
        if abs(sum(share for _, share in self.frames) - 1) > 1e-6:
            raise ConfigError(f"The probabilities of a phase must add up to 1, got {self.frames}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLatents:
    """Training data of a video denoiser, everything already encoded.

    Attributes:
        latents: Normalised latents of V videos, float16 [V, C, F, h, w].
        input_ids, attention_mask: Caption of each video, each int64 [V, N].
        empty_ids, empty_mask: The empty caption, each int64 [N].
    """

    latents: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    empty_ids: torch.Tensor
    empty_mask: torch.Tensor


def build_umt5(vocab_size: int, config: dict[str, Any]) -> UMT5EncoderModel:
    """Make an untrained UMT5 encoder; ``config`` holds ``UMT5Config`` fields."""
    return UMT5EncoderModel(
        UMT5Config(vocab_size=vocab_size, dropout_rate=0.0, pad_token_id=0, eos_token_id=1, **config)
    )


def build_wan(config: dict[str, Any]) -> WanTransformer3DModel:
    """Make an untrained Wan transformer; initialised like ``denoiser.build_pixart``.

    Args:
        config: ``WanTransformer3DModel`` fields.
    """
    model = WanTransformer3DModel(**config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
    torch.nn.init.xavier_uniform_(model.patch_embedding.weight.view(model.patch_embedding.out_channels, -1))
    torch.nn.init.normal_(model.condition_embedder.time_proj.weight, std=0.02)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn2.to_out[0].weight)
    torch.nn.init.zeros_(model.proj_out.weight)
    return model


class ChosenFramesRope(torch.nn.Module):
    """Stands in for ``transformer.rope``: the inputs are the chosen frames of a longer video.

    Args:
        rope: The transformer's own embedding.
        num_frames: Frames of a whole video; all of them are chosen at first.
    """

    chosen: torch.Tensor

    def __init__(self, rope: WanRotaryPosEmbed, num_frames: int) -> None:
        super().__init__()
        self.rope = rope
        self.register_buffer("chosen", torch.arange(num_frames), persistent=False)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the tokens of [B, C, k, h, w], each [1, N, 1, D]."""
        _, _, _, height, width = hidden_states.shape
        _, p_h, p_w = self.rope.patch_size
        k, rows, columns = len(self.chosen), height // p_h, width // p_w
        tables = []
        for table in (self.rope.freqs_cos, self.rope.freqs_sin):
            t, y, x = table.split([self.rope.t_dim, self.rope.h_dim, self.rope.w_dim], dim=1)
            parts = (t[self.chosen][:, None, None], y[:rows][None, :, None], x[:columns][None, None])
            full = [part.expand(k, rows, columns, -1) for part in parts]
            tables.append(torch.cat(full, dim=-1).reshape(1, k * rows * columns, 1, -1))
        return tables[0], tables[1]


class MatmulAttention:
    """Attention by plain matrix products: on the CPU its backward pass beats the fused one. For training only."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Compute what ``WanAttnProcessor`` computes for text-to-video."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        k = attn.norm_k(attn.to_k(context)).unflatten(2, (attn.heads, -1))
        v = attn.to_v(context).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            q, k = _rotate(q, *rotary_emb), _rotate(k, *rotary_emb)
        scores = torch.matmul(q.transpose(1, 2), k.permute(0, 2, 3, 1)) * q.shape[-1] ** -0.5
        out = torch.matmul(scores.softmax(dim=-1).to(v.dtype), v.transpose(1, 2))
        projected: torch.Tensor = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return projected


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2).type_as(x)


def encode_text(encoder: UMT5EncoderModel, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Text states as ``WanPipeline`` makes them: padding is zero, and nobody masks it later, float [B, N, D]."""
    states: torch.Tensor = encoder(input_ids, attention_mask=attention_mask)[0]
    return states * attention_mask[..., None]


def flow_loss(
    text_encoder: UMT5EncoderModel,
    transformer: WanTransformer3DModel,
    noisy: torch.Tensor,
    timestep: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity.

    Args:
        text_encoder: UMT5 encoder.
        transformer: Denoiser.
        noisy: Noisy latents [B, C, k, h, w].
        timestep: Noise level times 1,000, float32 [B].
        input_ids: Captions, int64 [B, N].
        attention_mask: 1 keeps a token, int64 [B, N].
        target: Velocities, noise minus clean [B, C, k, h, w].
    """
    text = encode_text(text_encoder, input_ids, attention_mask)
    predicted = transformer(noisy, timestep, text, return_dict=False)[0]
    return F.mse_loss(predicted.float(), target)


def shifted(t: torch.Tensor, shift: float = FLOW_SHIFT) -> torch.Tensor:
    """Noise level of the uniform time ``t`` in [0, 1]: more of the time is spent in strong noise."""
    return shift * t / (1 + (shift - 1) * t)


def choose_frames(k: int, num_frames: int, generator: torch.Generator) -> torch.Tensor:
    """Draw ``k`` frame numbers, one from each ``k``-th of the video, ascending, int64 [k]."""
    return ((torch.arange(k) + torch.rand(k, generator=generator)) * num_frames / k).long()


def wan_loop(
    text_encoder: UMT5EncoderModel,
    transformer: WanTransformer3DModel,
    data: VideoLatents,
    config: LoopConfig,
    phases: tuple[FramePhase, ...],
    *,
    caption_drop: float,
    run_dir: Path,
    seed: int,
    dtype: torch.dtype,
    compile_modules: bool,
    sample_fn: SampleFn | None = None,
) -> TrainLoop:
    """Set up joint training of text encoder and denoiser.

    Args:
        text_encoder: Untrained encoder, on the device to train on.
        transformer: Untrained denoiser with ``ChosenFramesRope``, on the same device.
        data: Encoded training data.
        config: Length and rates; ``batch_size`` counts frames: a step that sees k frames has batch_size / k videos.
        phases: How many frames the steps see, in order.
        caption_drop: Share of captions replaced by the empty one, for classifier-free guidance.
        run_dir: Folder of checkpoint, log and sheets.
        seed: Seed of everything random in training.
        dtype: Autocast type; ``torch.float32`` trains without autocast.
        compile_modules: Whether to use ``torch.compile``.
        sample_fn: See ``TrainLoop``.
    """
    device = transformer.device
    rope = transformer.rope
    assert isinstance(rope, ChosenFramesRope)
    num_frames = data.latents.shape[2]
    if device.type == "cpu":
        for block in transformer.blocks:
            block.attn1.processor = block.attn2.processor = MatmulAttention()
    compute = torch.compile(flow_loss, dynamic=False) if compile_modules else flow_loss

    def loss_fn(generator: torch.Generator) -> torch.Tensor:
        phase = next((p for p in phases if loop.step < p.until_frac * config.steps), phases[-1])
        shares = torch.tensor([share for _, share in phase.frames])
        k = phase.frames[int(torch.multinomial(shares, 1, generator=generator))][0]
        b = max(config.batch_size // k, 1)
        chosen = choose_frames(k, num_frames, generator)
        rows = torch.randint(len(data.latents), (b,), generator=generator)
        sigma = shifted((torch.arange(b) + torch.rand(b, generator=generator)) / b).to(device)
        drop = (torch.rand(b, generator=generator) < caption_drop)[:, None]
        clean = data.latents[rows[:, None], :, chosen].float().transpose(1, 2).contiguous()
        noise = torch.randn(clean.shape, generator=generator).to(device)
        clean = clean.to(device)
        ids = torch.where(drop, data.empty_ids, data.input_ids[rows]).to(device)
        mask = torch.where(drop, data.empty_mask, data.attention_mask[rows]).to(device)
        noisy = torch.lerp(clean, noise, sigma[:, None, None, None, None])
        rope.chosen = chosen.to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return compute(text_encoder, transformer, noisy, sigma * TIMESTEPS, ids, mask, noise - clean)

    def draw(step: int) -> None:
        rope.chosen = torch.arange(num_frames, device=device)
        if sample_fn is not None:
            sample_fn(step)

    loop = TrainLoop(
        name="denoiser",
        modules={"text_encoder": text_encoder, "transformer": transformer},
        loss_fn=loss_fn,
        config=config,
        run_dir=run_dir,
        seed=seed,
        sample_fn=draw,
    )
    return loop
