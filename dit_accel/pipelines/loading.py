"""Gets a pipeline from wherever it is: embedded in this package, a local folder, or the Hugging Face Hub."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

MODEL_INDEX = "model_index.json"
DTYPES = ("float32", "float16", "bfloat16")


def load_pipeline(
    source: str | Path,
    *,
    dtype: "torch.dtype | str | None" = None,
    device: "torch.device | str | None" = None,
    **kwargs: Any,
) -> "DiffusionPipeline":
    """Load a diffusers pipeline.

    Args:
        source: Name of an embedded pipeline (``"emoji-pixart"``), a folder in diffusers format, or a hub id
            (``"PixArt-alpha/PixArt-XL-2-512x512"``). An embedded name wins over a folder of the same name; write
            ``./name`` for the folder.
        dtype: Type of the weights, or its name; ``None``: as the pipeline comes.
        device: Where to put it; ``None``: leave it where it was loaded.
        **kwargs: Passed on to ``DiffusionPipeline.from_pretrained``.

    Raises:
        ConfigError: There is no such pipeline, or it cannot be read; the message says where was looked.
    """
    resolved = dtype_named(dtype) if isinstance(dtype, str) else dtype
    if resolved is not None:
        kwargs["dtype"] = resolved
    pipe = _load(str(source), kwargs)
    return pipe if device is None else _moved(pipe, device)


def name_of_model(source: str | Path) -> str:
    """What a model is called in reports and certificates: a folder by its own name, all else as it is."""
    from dit_accel.embedded import list_embedded

    path = Path(source).expanduser()
    return path.resolve().name if str(source) not in list_embedded() and path.exists() else str(source)


def folder_of_model(source: str | Path) -> str:
    """The name of a folder for what is made of a model: a calibration of it, say."""
    return name_of_model(source).replace("/", "--")


def dtype_named(name: str) -> "torch.dtype":
    """The torch type called ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Raises:
        ConfigError: There is no such type here.
    """
    import torch

    if name not in DTYPES:
        raise ConfigError(f"unknown dtype '{name}'.{did_you_mean(name, DTYPES)} Known: {', '.join(DTYPES)}.")
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def pick_device(name: str | None) -> "torch.device":
    """The device called ``name``; for ``None`` or ``"auto"`` the GPU where there is one, else the CPU.

    Raises:
        ConfigError: There is no such device on this machine.
    """
    import torch

    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device '{name}' cannot be used on this machine: {reason}") from error
    return device


def _load(source: str, kwargs: dict[str, Any]) -> "DiffusionPipeline":
    from dit_accel.embedded import list_embedded, load_embedded

    names = tuple(list_embedded())
    if source in names:
        return load_embedded(source, **kwargs)
    path = Path(source).expanduser()
    if path.exists():
        return _from_folder(path, kwargs)
    if _looks_local(source) or source.count("/") > 1:
        raise ConfigError(f"no pipeline at '{source}': there is no such folder")
    if "/" not in source:
        raise ConfigError(
            f"no pipeline called '{source}'.{did_you_mean(source, names)} Embedded: {', '.join(names) or 'none'}; "
            "or give a folder in diffusers format, or a hub id 'user/name'."
        )
    return _from_hub(source, kwargs)


def _from_folder(path: Path, kwargs: dict[str, Any]) -> "DiffusionPipeline":
    if not path.is_dir():
        raise ConfigError(f"'{path}' is a file; a pipeline is a folder in diffusers format, with a {MODEL_INDEX}")
    if not (path / MODEL_INDEX).is_file():
        raise ConfigError(f"'{path}' holds no diffusers pipeline: it has no {MODEL_INDEX}")
    try:
        return _from_pretrained(path, kwargs)
    except Exception as error:  # diffusers raises whatever its parts raise
        raise ConfigError(f"the pipeline in '{path}' cannot be loaded: {_one_line(error)}") from error


def _from_hub(repo_id: str, kwargs: dict[str, Any]) -> "DiffusionPipeline":
    try:
        return _from_pretrained(repo_id, kwargs)
    except Exception as error:  # a dozen kinds, from the hub client, the network and diffusers
        offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off")
        hub = "was not asked (HF_HUB_OFFLINE is set)" if offline else "cannot be reached or has no such pipeline"
        raise ConfigError(
            f"cannot load '{repo_id}': there is no such folder, it is not complete in the local hub cache, and the "
            f"Hugging Face Hub {hub}. Without a connection, give a downloaded folder or an embedded name. "
            f"diffusers said: {_one_line(error)}"
        ) from error


def _from_pretrained(source: str | Path, kwargs: dict[str, Any]) -> "DiffusionPipeline":
    from diffusers import DiffusionPipeline

    pipe: DiffusionPipeline = DiffusionPipeline.from_pretrained(str(source), **kwargs)
    return pipe


def _moved(pipe: "DiffusionPipeline", device: "torch.device | str") -> "DiffusionPipeline":
    moved: DiffusionPipeline = pipe.to(device)
    return moved


def _looks_local(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.endswith("/") or "\\" in source


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
