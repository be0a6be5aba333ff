"""Give a text-to-video pipeline its first frames: after each step they are put back, at the noise of the moment.

Replacement, as image inpainting with an unconditional model does it (Lugmayr et al. 2022, "RePaint", eq. 8, without
its resampling): no training, any flow-matching video pipeline whose autoencoder makes one latent frame of one frame. A
model that was trained to continue an image is better at it, and is used as it is by ``FactorisedTextToVideo``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dit_accel.errors import UnsupportedModelError

if TYPE_CHECKING:
    import torch


class FirstFrames:
    """A text-to-video pipeline that can be called with the frames that a video begins with.

    Args:
        pipe: For example ``load_embedded("emoji-wan")``.

    Raises:
        UnsupportedModelError: Its autoencoder compresses time, it has no step callback, or its scheduler no sigmas.
    """

    def __init__(self, pipe: Any) -> None:
        import inspect

        if getattr(pipe, "vae_scale_factor_temporal", None) != 1:
            raise UnsupportedModelError(
                f"{type(pipe).__name__} makes one latent frame of several, so single frames cannot be put back: use "
                "an image-to-video pipeline"
            )
        if "callback_on_step_end" not in inspect.signature(type(pipe).__call__).parameters:
            raise UnsupportedModelError(f"{type(pipe).__name__} has no callback_on_step_end")
        self.pipe = pipe

    def __call__(self, prompt: str, *, frames: "torch.Tensor", generator: Any = None, **call: Any) -> "torch.Tensor":
        """Draw a video that begins with these frames.

        Args:
            prompt: What happens.
            frames: float32 [k, 3, H, W] in [0, 1], fewer than the video has.
            generator: Of the noise.
            **call: Of the pipeline.

        Returns:
            float32 [F, 3, H, W] in [0, 1]; the first k are those that were given.

        Raises:
            UnsupportedModelError: The pipeline's scheduler has no sigmas.
        """
        import torch

        clean = self._encode(frames)
        count, device = clean.shape[2], self.pipe.device
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(_seed_of(generator)))
        clean, noise = clean.to(device), noise.to(device)

        def put_back(pipe: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
            sigmas = getattr(pipe.scheduler, "sigmas", None)
            if sigmas is None:
                raise UnsupportedModelError(f"{type(pipe.scheduler).__name__} has no sigmas to noise frames by")
            latents = kept["latents"].clone()
            latents[:, :, :count] = torch.lerp(clean, noise, float(sigmas[step + 1])).to(latents.dtype)
            return {"latents": latents}

        made = self.pipe(
            prompt, generator=generator, callback_on_step_end=put_back,
            callback_on_step_end_tensor_inputs=["latents"], output_type="pt", **call,
        ).frames  # fmt: skip
        video: torch.Tensor = made[0].float().cpu().clamp(0, 1)
        return torch.cat([frames.cpu(), video[len(frames) :]])

    def _encode(self, frames: "torch.Tensor") -> "torch.Tensor":
        """Normalised latents [1, C, k, h, w]."""
        import torch

        vae = self.pipe.vae
        video = (frames * 2 - 1).transpose(0, 1)[None].to(self.pipe.device, vae.dtype)
        with torch.no_grad():
            latents = torch.cat([vae.encode(each).latent_dist.mode() for each in video.split(1, dim=2)], dim=2)
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
        std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(latents)
        found: torch.Tensor = ((latents - mean) / std).float().cpu()
        return found


def _seed_of(generator: Any) -> int:
    first = generator[0] if isinstance(generator, Sequence) else generator
    return 0 if first is None else int(first.initial_seed())
