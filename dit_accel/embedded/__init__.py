"""The small pipelines that ship with this project.

They are plain diffusers folders, so ``DiffusionPipeline.from_pretrained(embedded_path(name))`` loads them too.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["embedded_path", "list_embedded", "load_embedded"]

_ROOT = Path(__file__).resolve().parent


def list_embedded() -> list[str]:
    """Names of the pipelines that ship with this installation, sorted."""
    return sorted(path.parent.name for path in _ROOT.glob("*/model_index.json"))


def embedded_path(name: str) -> Path:
    """Folder of an embedded pipeline.

    Args:
        name: For example ``"emoji-pixart"``.

    Raises:
        ConfigError: No pipeline of that name ships.
    """
    names = list_embedded()
    if name not in names:
        known = ", ".join(names) or "none in this installation"
        raise ConfigError(f"No embedded pipeline '{name}'; there are: {known}.{did_you_mean(name, names)}")
    return _ROOT / name


def load_embedded(name: str, **from_pretrained_kwargs: Any) -> "DiffusionPipeline":
    """Load an embedded pipeline, ready to be called with nothing but a prompt.

    Weights are stored in float16 and loaded as float32 unless ``dtype`` says otherwise. Nothing is downloaded.

    Example:
        >>> pipe = load_embedded("emoji-pixart")
        >>> image = pipe("a red apple", generator=torch.Generator("cpu").manual_seed(0)).images[0]

    Args:
        name: For example ``"emoji-pixart"``.
        **from_pretrained_kwargs: Passed on to ``from_pretrained``, for example ``dtype=torch.bfloat16``.

    Returns:
        A pipeline of the stock class. Where the stock call's defaults do not fit 64 x 64 pixels, a same-named subclass
        with other defaults: ``dit_accel.embedded.pixart_pipeline``, ``.flux_pipeline``, ``.wan_pipeline``.

    Raises:
        ConfigError: No pipeline of that name ships.
    """
    return load_folder(embedded_path(name), **from_pretrained_kwargs)


def load_folder(path: Path, **from_pretrained_kwargs: Any) -> "DiffusionPipeline":
    """Load a pipeline that the trainer saved, with the call defaults of ``load_embedded``.

    Args:
        path: Its folder.
        **from_pretrained_kwargs: See ``load_embedded``.
    """
    import torch
    from diffusers import DiffusionPipeline

    from dit_accel.embedded.flux_pipeline import FluxPipeline
    from dit_accel.embedded.pixart_pipeline import PixArtAlphaPipeline
    from dit_accel.embedded.wan_pipeline import WanPipeline

    if "torch_dtype" not in from_pretrained_kwargs:
        from_pretrained_kwargs.setdefault("dtype", torch.float32)
    loaders = {loader.__name__: loader for loader in (PixArtAlphaPipeline, FluxPipeline, WanPipeline)}
    loader = loaders.get(DiffusionPipeline.load_config(path)["_class_name"], DiffusionPipeline)
    pipe: DiffusionPipeline = loader.from_pretrained(path, local_files_only=True, **from_pretrained_kwargs)
    return pipe
