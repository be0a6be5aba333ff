"""Encodes the training videos once, keeps the latents in a file, and draws batches of some of their frames."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dit_accel.training.denoiser import Batch
from dit_accel.training.frames import FramePhase, choose_frames, phase_at
from dit_accel.training.kinds import PipelineKind, TextInputs, Tokenizers
from dit_accel.training.motion_heads import path_numbers
from dit_accel.training.objectives import FlowMatching
from dit_accel.training.training_set import VideoSet
from dit_accel.training.video_vae import encode_frames, normalise

logger = logging.getLogger("dit_accel")

LATENTS_FILE = "latents.pt"
VIDEOS_AT_A_TIME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLatents:
    """Videos and their captions; see ``TrainingLatents``.

    Attributes:
        latents: Normalised latents of V videos, float16 [V, C, F, h, w].
        text: Caption of each video, each int64 [V, N].
        empty: The empty caption, each int64 [1, N].
        paths: Where the sprites are, see ``path_numbers``, float32 [V, F, 3].
        phases: How many frames the steps see, in order.
    """

    latents: torch.Tensor
    text: TextInputs
    empty: TextInputs
    paths: torch.Tensor
    phases: tuple[FramePhase, ...]

    @property
    def shape(self) -> torch.Size:
        """See ``TrainingLatents``."""
        return self.latents.shape[1:]

    def to(self, device: torch.device) -> "VideoLatents":
        """See ``TrainingLatents``."""
        return VideoLatents(
            latents=self.latents.to(device),
            text={name: ids.to(device) for name, ids in self.text.items()},
            empty={name: ids.to(device) for name, ids in self.empty.items()},
            paths=self.paths.to(device),
            phases=self.phases,
        )

    def draw(self, batch_size: int, progress: float, caption_drop: float, generator: torch.Generator) -> Batch:
        """See ``TrainingLatents``: a step that sees k frames has ``batch_size`` / k videos."""
        device, phase = generator.device, phase_at(self.phases, progress)
        k = phase.draw_count(generator)
        b = max(batch_size // k, 1)
        frames = choose_frames(k, self.latents.shape[2], generator)
        rows = torch.randint(len(self.latents), (b,), generator=generator, device=device)
        drop = (torch.rand(b, generator=generator, device=device) < caption_drop)[:, None]
        clean = self.latents[rows[:, None], :, frames].float().transpose(1, 2).contiguous()
        text = {name: torch.where(drop, self.empty[name], ids[rows]) for name, ids in self.text.items()}
        objective = None if phase.flow_shift is None else FlowMatching(phase.flow_shift)
        return Batch(clean=clean, text=text, frames=frames, path=self.paths[rows][:, frames], objective=objective)


def encode_videos(
    kind: PipelineKind,
    vae: Any,
    data: VideoSet,
    tokenizers: Tokenizers,
    phases: tuple[FramePhase, ...],
    *,
    run_dir: Path,
    dtype: torch.dtype,
) -> VideoLatents:
    """Encode the videos, or read ``run_dir/latents.pt`` where this autoencoder has encoded these before.

    Args:
        kind: Kind of pipeline.
        vae: Trained ``AutoencoderKLWan``.
        data: The videos.
        tokenizers: For the captions.
        phases: See ``VideoLatents``.
        run_dir: Folder of the file.
        dtype: Autocast type while encoding.
    """
    captions = [video.text for video in data.videos]
    text = kind.tokenize(tokenizers, [*captions, ""])
    return VideoLatents(
        latents=_cached(vae, data, captions, run_dir / LATENTS_FILE, dtype),
        text={name: ids[:-1] for name, ids in text.items()},
        empty={name: ids[-1:] for name, ids in text.items()},
        paths=torch.stack([path_numbers(data.path(k)) for k in range(len(captions))]),
        phases=phases,
    )


def _cached(vae: Any, data: VideoSet, captions: list[str], path: Path, dtype: torch.dtype) -> torch.Tensor:
    key = {"vae": _fingerprint(vae), "captions": captions, "seed": data.seed}
    if path.exists():
        content = torch.load(path, weights_only=True)
        latents: torch.Tensor = content.pop("latents")
        if content == key:
            return latents
    parts = []
    for start in range(0, len(captions), VIDEOS_AT_A_TIME):
        videos = [data.draw_video(k) for k in range(start, min(start + VIDEOS_AT_A_TIME, len(captions)))]
        encoded = normalise(vae, encode_frames(vae, torch.cat(videos), dtype))
        parts.append(encoded.unflatten(0, (len(videos), -1)).transpose(1, 2))
        logger.info("latents: %d of %d videos", start + len(videos), len(captions))
    latents = torch.cat(parts)
    partial = path.with_suffix(".tmp")
    torch.save({"latents": latents, **key}, partial)
    partial.replace(path)
    return latents


def _fingerprint(vae: Any) -> str:
    digest = hashlib.sha256(repr((vae.config.latents_mean, vae.config.latents_std)).encode())
    for value in vae.state_dict().values():
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
