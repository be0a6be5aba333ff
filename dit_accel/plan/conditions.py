"""Which run a plan or a certificate is for, and in words what differs from another one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_WORDS = {
    "pipeline": "the pipeline",
    "num_steps": "denoiser evaluations",
    "scheduler": "the scheduler",
    "latent_size": "the latent size",
    "token_grid": "the token grid (frames, rows, columns)",
    "guidance_scale": "the guidance scale",
    "true_cfg_scale": "the true guidance scale",
    "guidance_scale_2": "the second denoiser's guidance scale",
    "adapters": "the LoRA adapters",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Of a run; ``None`` means any, or, in what was found, that it could not be told.

    Attributes:
        num_steps: Denoiser evaluations per run.
        scheduler: Class name.
        scheduler_config: Its public settings; only those that both sides know are compared.
        latent_size: Spatial (and temporal) shape of the latents or the number of tokens, without batch and channels.
        token_grid: Frames, rows and columns of tokens; tells apart what packed latents make look alike.
        text_span: First and one past the last position of text among the tokens that attention sees. Kept for who
            reads it, and not compared: prompts may be of any length.
        guidance_scale: Classifier-free guidance scale; of a distilled model the one that it is told.
        true_cfg_scale: Classifier-free guidance scale of pipelines that have it beside that (Qwen-Image, FLUX,
            HunyuanVideo); 1 where it is not in force, for want of a negative prompt.
        guidance_scale_2: Of the denoiser that takes over (Wan 2.2).
        pipeline: Class name: image-to-image is another one.
        adapters: LoRA adapters in force, active or fused, each as ``"name@scale"``.
    """

    num_steps: int | None = None
    scheduler: str | None = None
    scheduler_config: Mapping[str, Any] | None = None
    latent_size: tuple[int, ...] | None = None
    token_grid: tuple[int, int, int] | None = None
    text_span: tuple[int, int] | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    guidance_scale_2: float | None = None
    pipeline: str | None = None
    adapters: tuple[str, ...] | None = None

    def doubts(self, found: "Conditions") -> list[str]:
        """In words, what differs between these conditions and those of a run."""
        differences = []
        for name, word in _WORDS.items():
            wanted, actual = getattr(self, name), getattr(found, name)
            if wanted is not None and actual is not None and wanted != actual:
                differences.append(f"{word}: {_said(name, actual)} instead of {_said(name, wanted)}")
        if self.scheduler == found.scheduler:
            differences += _config_doubts(self.scheduler_config or {}, found.scheduler_config or {})
        return differences


def _said(name: str, value: Any) -> str:
    return ", ".join(value) or "none" if name == "adapters" else str(value)


def _config_doubts(wanted: Mapping[str, Any], actual: Mapping[str, Any]) -> Iterator[str]:
    for key in wanted:
        if key in actual and wanted[key] != actual[key]:
            yield f"the scheduler's {key}: {actual[key]} instead of {wanted[key]}"
