"""Joint training of a text encoder and a PixArt denoiser on latents, with v-prediction.

v-prediction: Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", eq. in §4 and
appendix D. The noise schedule is the squared cosine of Nichol & Dhariwal 2021; it reaches almost zero signal, which
the white background needs. Depart from the papers: timesteps are stratified over the batch, which lowers the
variance of the loss at no cost.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, PixArtTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import T5Config, T5EncoderModel

from dit_accel.training.loop import LoopConfig, SampleFn, TrainLoop

NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentData:
    """Training data of a denoiser, everything already encoded.

    Attributes:
        mean, std: Scaled latents of M images, each float32 [M, C, h, w].
        input_ids, attention_mask: R captions, each int64 [R, N].
        image: Image number of each caption, int64 [R].
        weight: Probability of each caption, float32 [R].
        empty_ids, empty_mask: The empty caption, each int64 [N].
    """

    mean: torch.Tensor
    std: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    image: torch.Tensor
    weight: torch.Tensor
    empty_ids: torch.Tensor
    empty_mask: torch.Tensor


def build_text_encoder(vocab_size: int, config: dict[str, Any]) -> T5EncoderModel:
    """Make an untrained T5 encoder; ``config`` holds ``T5Config`` fields."""
    return T5EncoderModel(T5Config(vocab_size=vocab_size, dropout_rate=0.0, pad_token_id=0, eos_token_id=1, **config))


def build_pixart(config: dict[str, Any]) -> PixArtTransformer2DModel:
    """Make an untrained PixArt transformer with the paper's initialisation.

    diffusers leaves PyTorch's default initialisation; as in the PixArt and DiT code, linear layers start Xavier
    uniform, and the cross-attention output and the last layer start at zero.

    Args:
        config: ``PixArtTransformer2DModel`` fields.
    """
    model = PixArtTransformer2DModel(**config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    torch.nn.init.normal_(model.adaln_single.linear.weight, std=0.02)
    for block in model.transformer_blocks:
        torch.nn.init.zeros_(block.attn2.to_out[0].weight)
    torch.nn.init.zeros_(model.proj_out.weight)
    return model


def denoiser_loss(
    text_encoder: T5EncoderModel,
    transformer: PixArtTransformer2DModel,
    noisy: torch.Tensor,
    timestep: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity.

    Args:
        text_encoder: T5 encoder.
        transformer: Denoiser.
        noisy: Noisy latents [B, C, h, w].
        timestep: int64 [B].
        input_ids: Captions, int64 [B, N].
        attention_mask: 1 keeps a token, int64 [B, N].
        target: Velocities [B, C, h, w].
    """
    text = text_encoder(input_ids, attention_mask=attention_mask)[0]
    predicted = transformer(
        noisy,
        encoder_hidden_states=text,
        encoder_attention_mask=attention_mask,
        timestep=timestep,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]
    return F.mse_loss(predicted.float(), target)


def denoiser_loop(
    text_encoder: T5EncoderModel,
    transformer: PixArtTransformer2DModel,
    data: LatentData,
    config: LoopConfig,
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
        transformer: Untrained denoiser, on the same device.
        data: Encoded training data, on the CPU or that device.
        config: Length and rates.
        caption_drop: Share of captions replaced by the empty one, for classifier-free guidance.
        run_dir: Folder of checkpoint, log and sheets.
        seed: Seed of everything random in training.
        dtype: Autocast type; ``torch.float32`` trains without autocast.
        compile_modules: Whether to use ``torch.compile``.
        sample_fn: See ``TrainLoop``.
    """
    device = transformer.device
    if device.type == "cpu":
        # PyTorch's fused attention spends a quarter of a CPU step in its backward pass; plain matmuls are faster.
        transformer.set_attn_processor(AttnProcessor())
    scheduler = DDPMScheduler(**NOISE_SCHEDULE)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    steps = scheduler.config.num_train_timesteps
    mean, std = data.mean.to(device), data.std.to(device)
    compute = torch.compile(denoiser_loss) if compile_modules else denoiser_loss
    b = config.batch_size

    def loss_fn(generator: torch.Generator) -> torch.Tensor:
        rows = torch.multinomial(data.weight, b, replacement=True, generator=generator)
        t = ((torch.arange(b) + torch.rand(b, generator=generator)) * steps / b).long()
        drop = (torch.rand(b, generator=generator) < caption_drop)[:, None]
        encode_noise, noise = torch.randn(2, b, *mean.shape[1:], generator=generator).to(device)
        ids = torch.where(drop, data.empty_ids, data.input_ids[rows]).to(device)
        mask = torch.where(drop, data.empty_mask, data.attention_mask[rows]).to(device)
        image, t = data.image[rows].to(device), t.to(device)
        clean = mean[image] + std[image] * encode_noise
        noisy = scheduler.add_noise(clean, noise, t)
        target = scheduler.get_velocity(clean, noise, t)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return compute(text_encoder, transformer, noisy, t, ids, mask, target)

    return TrainLoop(
        name="denoiser",
        modules={"text_encoder": text_encoder, "transformer": transformer},
        loss_fn=loss_fn,
        config=config,
        run_dir=run_dir,
        seed=seed,
        sample_fn=sample_fn,
    )
