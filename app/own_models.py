"""A pipeline of the visitor's own, before anything is measured of it: the plain run, and presets by rule."""

import inspect
import json
from pathlib import Path

from dit_accel.app.plans import PRESET_ORDER
from dit_accel.app.points import NOT_CERTIFIED, Front, FrontPoint
from dit_accel.errors import ConfigError

NOTHING_MEASURED = (
    "a preset by rule: nothing was measured on this model yet; the tab Calibrate finds plans for it and certifies one"
)


def front_of_pipeline(model: str, index: Path) -> Front:
    """A front without numbers. Imports diffusers, loads no weights.

    Args:
        model: What ``load_pipeline`` takes.
        index: Its ``model_index.json``.

    Raises:
        ConfigError: It is no pipeline that this diffusers has, or one that takes no prompt.
    """
    import diffusers

    from dit_accel.pipelines.generation import FRAMES_PARAMETERS

    try:
        name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{index.name}' of '{model}' does not say which pipeline it is ({error})") from error
    name = str(name[-1] if isinstance(name, list) else name)
    kind = getattr(diffusers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
        raise ConfigError(f"'{model}' is a '{name[:80]}', which diffusers {diffusers.__version__} does not have")
    parameters = inspect.signature(kind.__call__).parameters  # type: ignore[operator]
    if "prompt" not in parameters:
        raise ConfigError(f"'{model}' is a {name}, which takes no prompt: the explorer draws from text")
    default = parameters["num_inference_steps"].default if "num_inference_steps" in parameters else None
    steps = default if isinstance(default, int) else 0
    plain = FrontPoint(key="plain", label="plain", kind="plain", num_steps=steps)
    presets = [
        FrontPoint(
            key=f"ours/{preset}", label=preset, kind="ours", num_steps=steps, preset=preset, state=NOT_CERTIFIED,
            words=(NOTHING_MEASURED,),
        )
        for preset in PRESET_ORDER
    ]  # fmt: skip
    video = any(each in parameters for each in FRAMES_PARAMETERS)
    return Front(model=model, points=(plain, *presets), video=video, num_steps=steps)
