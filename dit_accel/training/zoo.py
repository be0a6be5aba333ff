"""Trains several embedded pipelines in one go, under one time budget; the next call goes on where this one stopped.

What was finished before is skipped without loading data or weights.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dit_accel.embedded import load_folder
from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.training.data import pack_data
from dit_accel.training.pretrain import assemble, train_embedded
from dit_accel.training.progress import STAGES, STEPS, forget_from, is_done, mark_done, pending
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.recipes import RECIPES, get_recipe
from dit_accel.training.release import export_release, measure_release
from dit_accel.training.samples import spread
from dit_accel.training.stage import RunOptions
from dit_accel.training.training_set import TrainingSet, load_training_set

logger = logging.getLogger("dit_accel")

ALL = "all"
SAMPLES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One pipeline to train.

    Attributes:
        recipe: What to train.
        options: Where and how; jobs of one call share their deadline.
        output: Folder of the finished pipeline.
    """

    recipe: EmbeddedRecipe
    options: RunOptions
    output: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a job.

    Attributes:
        name: The pipeline.
        finished: Whether everything asked for is done.
        message: The same in words.
    """

    name: str
    finished: bool
    message: str


def order_names(names: Sequence[str], size: str) -> list[str]:
    """Put names in an order in which they can be trained: an autoencoder comes before those who take it over.

    Args:
        names: Embedded pipelines, or ``"all"``.
        size: ``"cpu"`` or ``"gpu"``.

    Raises:
        ConfigError: An unknown name or size, or none.
    """
    wanted = [other for name in names for other in (RECIPES if name == ALL else [name])]
    if not wanted:
        raise ConfigError(f"Which pipeline? Name some of {', '.join(RECIPES)}, or '{ALL}'.")
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        source = get_recipe(name, size).vae_source
        if source in wanted and source not in ordered:
            add(source)
        ordered[name] = None

    for name in wanted:
        add(name)
    return list(ordered)


def train_zoo(
    jobs: Sequence[TrainingJob], data_dir: Path | None, *, stages: Sequence[str] = STAGES, measure: bool = True
) -> Iterator[Outcome]:
    """Train, export and measure pipelines, one after the other.

    Args:
        jobs: In order; see ``order_names``.
        data_dir: Folder of the tarballs, or a pack; the user's cache by default.
        stages: Stages of training to do.
        measure: Whether to measure finished pipelines and write their model cards; needs the extra ``eval``.

    Yields:
        What became of each job, as soon as it is known. A job waits for an autoencoder that is still in training.
    """
    data = _DataSets(data_dir)
    by_name = {job.recipe.name: job for job in jobs}
    for job in jobs:
        source = by_name.get(job.recipe.vae_source or "")
        if source is not None and _autoencoder_pending(source, stages):
            message = f"waits for the autoencoder of {source.recipe.name}"
            yield Outcome(name=job.recipe.name, finished=False, message=message)
        else:
            yield _train(job, data, stages, measure=measure)


def measure_job(job: TrainingJob, data_dir: Path | None) -> None:
    """Measure the pipeline in ``job.output`` and write its report and model card there."""
    _measure(job, _DataSets(data_dir))


def pack_training_data(recipes: Sequence[EmbeddedRecipe], data_dir: Path, path: Path) -> None:
    """Write what some recipes train on, and are measured on, into one small file: ``data.pack_data``.

    Args:
        recipes: The recipes.
        data_dir: Folder of the tarballs, which are fetched where they are missing.
        path: File to write.
    """
    styles = sorted({style for recipe in recipes for style in recipe.styles})
    everything = any(not recipe.categories for recipe in recipes)
    categories = [] if everything else sorted({c for recipe in recipes for c in recipe.categories})
    pack_data(data_dir, styles, categories, path)


class _DataSets:
    """Training sets, each read once for all recipes that share it."""

    def __init__(self, data_dir: Path | None) -> None:
        self.data_dir = data_dir
        self.found: dict[tuple[object, ...], TrainingSet] = {}

    def __call__(self, recipe: EmbeddedRecipe, *, held_out: bool = False) -> TrainingSet:
        key = (recipe.styles, recipe.categories, recipe.image_size, held_out)
        if key not in self.found:
            self.found[key] = load_training_set(recipe, self.data_dir, held_out=held_out)
        return self.found[key]


def _autoencoder_pending(job: TrainingJob, stages: Sequence[str]) -> bool:
    left = pending(job.recipe, job.options.run_dir)
    return any(stage in left and stage in stages for stage in ("vae", "decoder"))


def _train(job: TrainingJob, data: _DataSets, stages: Sequence[str], *, measure: bool) -> Outcome:
    recipe, options = job.recipe, job.options
    name, run_dir = recipe.name, options.run_dir
    steps = [*stages, *STEPS[len(STAGES) : len(STEPS) if measure else -1]]
    if options.resume and all(is_done(recipe, step, run_dir) for step in steps) and job.output.exists():
        return Outcome(name=name, finished=True, message="was finished before")
    if options.out_of_time:
        return Outcome(name=name, finished=False, message=_what_is_left(job))
    train = data(recipe)
    concepts = {concept.name for concept in train.concepts}
    logger.info("%s: %d images of %d concepts, on %s", name, len(train.images), len(concepts), options.device)
    if train_embedded(recipe, train, options, stages) is None:
        return Outcome(name=name, finished=False, message=_what_is_left(job))
    if not (options.resume and is_done(recipe, "export", run_dir) and job.output.exists()):
        forget_from("export", run_dir)
        export_release(assemble(run_dir).to(options.device), recipe, spread(train.captions(), SAMPLES), job.output)
        if not pending(recipe, run_dir):
            mark_done(recipe, "export", run_dir)
    if measure and not (options.resume and is_done(recipe, "measure", run_dir)):
        if options.out_of_time:
            return Outcome(name=name, finished=False, message="is trained and saved, not measured yet")
        try:
            _measure(job, data)
        except MissingDependencyError as error:
            return Outcome(name=name, finished=False, message=f"is trained and saved, not measured: {error}")
        mark_done(recipe, "measure", run_dir)
    return Outcome(name=name, finished=True, message=f"saved to {job.output}")


def _measure(job: TrainingJob, data: _DataSets) -> None:
    pipe = load_folder(job.output).to(job.options.device)
    pipe.set_progress_bar_config(disable=True)
    train, held_out = data(job.recipe), data(job.recipe, held_out=True)
    measure_release(pipe, job.recipe, train, held_out, job.options.run_dir, job.output)


def _what_is_left(job: TrainingJob) -> str:
    return f"not complete yet; still to do: {', '.join(pending(job.recipe, job.options.run_dir)) or 'export'}"
