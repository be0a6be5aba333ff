"""The teacher's own trajectories, solved once and kept: distillation from them needs no images and few teacher calls.

Euler's velocities need not be kept: (x_{i+1} - x_i) / (t_{i+1} - t_i) is what the teacher said at x_i. Noise and
prompt of a trajectory depend on its number alone, and each file is written whole, so a set that was cut off goes on
where it was. Files are mapped into memory, not read: a set may be larger than it, and processes share what they read.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import Backbone, Condition, take
from dit_accel.training.distill.guidance import Guidance
from dit_accel.training.distill.workers import Workers

logger = logging.getLogger("dit_accel")

BATCH = 32
TEXT_FILE = "text.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """Solved trajectories and the text they belong to.

    Attributes:
        sigmas: Times, from 1 to 0, float32 [T + 1].
        parts: Latents at these times of so many trajectories each, all but the last of one length, float16
            [m, T + 1, ...]; mapped files.
        rows: Row of the text table of each trajectory, int64 [M].
        text: Embeddings of R prompts, each [R, ...].
        empty: Embeddings of the empty prompt, each [1, ...].
    """

    sigmas: torch.Tensor
    parts: Sequence[torch.Tensor]
    rows: torch.Tensor
    text: Condition
    empty: Condition

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.sigmas) - 1

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, Condition]:
        """Numbers of trajectories, int64 [B], drawn with replacement, and their text."""
        chosen = torch.randint(len(self), (count,), generator=generator)
        return chosen, take(self.text, self.rows[chosen])

    def at(self, chosen: torch.Tensor, index: torch.Tensor | int) -> torch.Tensor:
        """Points of trajectories [B] at the indices of times [B], or all at one; float32 [B, ...]."""
        each = len(self.parts[0])
        places = zip(chosen.tolist(), torch.as_tensor(index).expand(len(chosen)).tolist(), strict=True)
        return torch.stack([self.parts[number // each][number % each, place] for number, place in places]).float()


def noise_of(number: int, seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Initial noise of a trajectory, float32."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed * 1_000_003 + number))


def solve_trajectories(
    backbone: Backbone,
    prompts: Sequence[str],
    folder: Path,
    *,
    count: int,
    steps: int,
    guidance: Guidance,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    workers: Workers | None = None,
) -> Trajectories:
    """Solve trajectories with Euler steps, or read those that are there.

    Args:
        backbone: The teacher.
        prompts: Gone through in turn, in an order drawn from the seed.
        folder: Where to keep them; one file for 32.
        count: How many.
        steps: Euler steps, at the pipeline's own times.
        guidance: Of the teacher.
        seed: Of noise and order.
        dtype: Autocast type of the teacher.
        workers: Processes that share the work; this one alone by default.

    Raises:
        ConfigError: There are no prompts, or the folder holds trajectories of another kind.
    """
    if not prompts:
        raise ConfigError("trajectories need prompts: give some with --prompts")
    folder.mkdir(parents=True, exist_ok=True)
    workers, model = workers or Workers(), model_of(backbone)
    text, empty = _text(backbone, prompts, folder, model)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))
    rows = order[torch.arange(count) % len(prompts)]
    sigmas = backbone.sigmas(steps)
    facts = {"steps": str(steps), "guidance": repr(guidance.scale), "seed": str(seed)}
    facts |= {"model": model, "shape": "x".join(map(str, backbone.latent_shape))}
    parts = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    for numbers in parts[workers.rank :: workers.count]:
        file = _file(folder, numbers)
        # The last file of a smaller set is not full.
        if not file.exists() or len(_read(file, facts)) < len(numbers):
            noise = torch.stack([noise_of(number, seed, backbone.latent_shape) for number in numbers])
            points = _solve(backbone, noise, take(text, rows[list(numbers)]), empty, sigmas, guidance, dtype)
            _write(file, {"points": points.half()}, facts)
            logger.info("trajectories: %d of %d", numbers[-1] + 1, count)
    workers.wait()
    mapped = [_read(_file(folder, numbers), facts)[: len(numbers)] for numbers in parts]
    return Trajectories(sigmas=sigmas, parts=mapped, rows=rows, text=text, empty=empty)


@torch.no_grad()
def _solve(
    backbone: Backbone, noise: torch.Tensor, text: Condition, empty: Condition, sigmas: torch.Tensor,
    guidance: Guidance, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    device = backbone.device
    x = noise.to(device)
    text, empty = _to(text, device), _to(empty, device)
    points = [x]
    for now, then in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        t = torch.full((len(x),), now, device=device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            v = backbone.velocity(backbone.denoiser, x, t, text, guidance, empty)
        x = x + (then - now) * v
        points.append(x)
    return torch.stack(points, dim=1).cpu()


def _file(folder: Path, numbers: range) -> Path:
    return folder / f"{numbers[0]:06d}.safetensors"


def _text(backbone: Backbone, prompts: Sequence[str], folder: Path, model: str) -> tuple[Condition, Condition]:
    file, texts = folder / TEXT_FILE, [*prompts, ""]
    digest = {"prompts": hash_of(prompts), "model": model}
    if not file.exists():
        batches = [_cpu(backbone.encode(texts[start : start + BATCH])) for start in range(0, len(texts), BATCH)]
        _write(file, {name: torch.cat([each[name] for each in batches]) for name in batches[0]}, digest)
    table = _read_all(file, digest)
    return {name: rows[:-1] for name, rows in table.items()}, {name: rows[-1:] for name, rows in table.items()}


def hash_of(prompts: Sequence[str]) -> str:
    """Tells lists of prompts apart."""
    import hashlib

    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]


def model_of(backbone: Backbone) -> str:
    """Tells teachers apart: class, names and shapes of the denoiser's weights, and the first number of each."""
    denoiser = backbone.denoiser
    parts = [f"{name}{list(p.shape)}{p.flatten()[:1].tolist()}" for name, p in denoiser.named_parameters()]
    return hash_of([type(backbone.pipe).__name__, *parts])


def _to(condition: Condition, device: torch.device) -> Condition:
    return {name: rows.to(device) for name, rows in condition.items()}


def _cpu(condition: Condition) -> Condition:
    return {name: rows.float().cpu() for name, rows in condition.items()}


def _write(file: Path, tensors: dict[str, torch.Tensor], facts: dict[str, str]) -> None:
    partial = file.with_suffix(f".{os.getpid()}.tmp")  # several processes may write the same
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=facts)
    os.replace(partial, file)


def _read(file: Path, facts: dict[str, str]) -> torch.Tensor:
    return _read_all(file, facts)["points"]


def _read_all(file: Path, facts: dict[str, str]) -> dict[str, torch.Tensor]:
    """Tensors of a file, mapped: safetensors reads what is touched."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        found = opened.metadata() or {}
    for name, wanted in facts.items():
        if found.get(name) != wanted:
            raise ConfigError(
                f"{file} holds trajectories with {name} {found.get(name)}, wanted {wanted}: give another folder"
            )
    tensors: dict[str, torch.Tensor] = load_file(file)
    return tensors
