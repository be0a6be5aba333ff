"""What the teacher is asked to draw: captions, never pictures.

Of an embedded pipeline its training captions, which leave out every prompt of the shipped lists word for word, so
those lists stay fit for measuring the student. Of any other pipeline a file, or the shipped ``search`` list.
"""

from pathlib import Path

from dit_accel.embedded import list_embedded
from dit_accel.errors import ConfigError
from dit_accel.prompts import load_prompts


def teacher_prompts(source: str, model: str, *, video: bool, data_dir: Path | None = None) -> list[str]:
    """Prompts for trajectories.

    Args:
        source: ``"auto"``, ``"train"`` (an embedded pipeline's training captions; fetches their names once),
            ``"search"`` (the shipped list) or a text file with one prompt a line.
        model: Name of the pipeline.
        video: Whether it makes videos.
        data_dir: Of the names; the user's cache by default.

    Raises:
        ConfigError: There are no such prompts.
    """
    embedded = model in list_embedded()
    if source == "auto":
        source = "train" if embedded else "search"
    if source == "search":
        return list(load_prompts("search", "video" if video else "image").prompts)
    if source == "train":
        if not embedded:
            raise ConfigError(
                f"'{model}' is no embedded pipeline, so its training captions are not known: give a file"
            )
        from dit_accel.training.recipes import get_recipe
        from dit_accel.training.training_set import load_training_set, training_captions

        recipe = get_recipe(model, "cpu")
        data = load_training_set(recipe, data_dir)
        return data.captions() if recipe.video is not None else training_captions(recipe, data).texts
    if source == "certify":
        raise ConfigError("the certify prompts are kept for measuring: distil from others")
    file = Path(source)
    if not file.is_file():
        raise ConfigError(f"no prompts '{source}': give auto, train, search, or a text file with one prompt a line")
    found = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not found:
        raise ConfigError(f"'{file}' holds no prompts")
    return found
