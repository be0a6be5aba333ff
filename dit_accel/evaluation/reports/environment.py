"""What a measurement was taken with: versions, processor, threads, device, git revision."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dit_accel.machine import cpu_name
from dit_accel.version import __version__

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "pillow",
    "triton",
    "torchao",
    "torchmetrics",
    "torchvision",
    "peft",
    "cache-dit",
)


class Environment(BaseModel):
    """A machine and its software, as it goes into every report.

    Attributes:
        dit_accel: Version of this library.
        git_revision: Commit of the source checkout, with ``+`` when files differ from it; ``None`` when installed.
        python: Python version.
        platform: Operating system and machine type.
        cpu: Processor name; in newer reports with its vector units.
        cpu_cores: Logical cores that this process may use.
        torch_threads: Threads of one torch operation.
        gpu: Name of the current GPU, or ``None``.
        gpu_memory_mib: Its memory.
        cuda: CUDA version that torch was built for, when there is a GPU.
        packages: Versions of what is installed, of the packages that matter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dit_accel: str
    git_revision: str | None = None
    python: str
    platform: str
    cpu: str
    cpu_cores: int
    torch_threads: int
    gpu: str | None = None
    gpu_memory_mib: int | None = None
    cuda: str | None = None
    packages: dict[str, str]


def collect_environment() -> Environment:
    """Look at this machine."""
    import torch

    gpu, memory = None, None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu, memory = properties.name, properties.total_memory // 2**20
    return Environment(
        dit_accel=__version__,
        git_revision=git_revision(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu_name(),
        cpu_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        torch_threads=torch.get_num_threads(),
        gpu=gpu,
        gpu_memory_mib=memory,
        cuda=torch.version.cuda if gpu else None,
        packages={name: version for name in PACKAGES if (version := _version(name))},
    )


def command_line() -> tuple[str, ...]:
    """This process's, without the names of the machine's folders."""
    program = Path(sys.argv[0]).name
    return ("dit-accel" if program == "__main__.py" else program, *map(_without_folders, sys.argv[1:]))


def _without_folders(argument: str) -> str:
    """``/a/b`` to ``b``, also in ``--option=/a/b`` and ``name=/a/b``."""
    name, equals, value = argument.rpartition("=")
    return f"{name}{equals}{Path(value).name if Path(value).is_absolute() else value}"


def git_revision() -> str | None:
    """Commit of the checkout this package runs from; ``None`` when it is installed or git is missing."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    revision = _git(root, "rev-parse", "--short=12", "HEAD")
    if not revision:
        return None
    return revision + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
