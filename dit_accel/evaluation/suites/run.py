"""Runs an evaluation: draws, scores, reports. Stopped, it goes on; started by accelerate, it is shared out."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.api import is_accelerated, resolve_plan
from dit_accel.errors import ConfigError
from dit_accel.evaluation.compare.compare import PLAIN
from dit_accel.evaluation.metrics.fidelity import require_metrics
from dit_accel.evaluation.reports.environment import collect_environment
from dit_accel.evaluation.reports.report import Report, Settings
from dit_accel.evaluation.suites.draw import Painter
from dit_accel.evaluation.suites.gather import Gathering
from dit_accel.evaluation.suites.job import ImageSource, SuiteJob
from dit_accel.evaluation.suites.prompt_files import Item
from dit_accel.evaluation.suites.real_images import RealFolder
from dit_accel.evaluation.suites.request import Request
from dit_accel.evaluation.suites.score import Scorer, num_reference_chunks
from dit_accel.evaluation.suites.sheet import save_sheet
from dit_accel.families.pipeline import find_denoisers
from dit_accel.families.targets import find_targets
from dit_accel.pipelines.generation import fps_of, makes_video, steps_of
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.fingerprint import digest, scheduler_digest
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.plan.weights import sample_weights
from dit_accel.version import __version__

if TYPE_CHECKING:
    from accelerate import PartialState

OnProgress = Callable[[str, int, int], None]
"""Called with the phase, in words, and how many of its parts are done, of how many; in this process."""
NUMERIC_PACKAGES = ("torch", "diffusers", "transformers")


def evaluate(
    request: Request,
    folder: Path,
    *,
    pipe: Any = None,
    state: "PartialState | None" = None,
    on_progress: OnProgress | None = None,
) -> Report | None:
    """Draw what is missing, measure what is not known, and write ``FOLDER/report.json`` and ``sheet.png``.

    Killed and called again with the same request it goes on where it was, and ends in equal numbers. The pictures do
    not depend on what is measured: another network or judge in the same folder draws nothing anew.

    Args:
        request: What to evaluate.
        folder: For pictures, progress and report.
        pipe: A pipeline that is not accelerated; it is left as it was. ``None``: only folders of images.
        state: Of accelerate, when several processes share the work; chunks are shared out evenly.
        on_progress: Called after every chunk.

    Returns:
        The report; in all processes but the first ``None``.

    Raises:
        ConfigError: Bad input, or the folder holds something else.
        PlanMismatchError: A plan is not for this model.
        MissingDependencyError: torchmetrics is not installed.
    """
    require_metrics()
    environment = collect_environment()  # now: the checkout may be another one when it is done
    real = request.check()
    items = request.items()
    chunks = [items[start : start + request.batch_size] for start in range(0, len(items), request.batch_size)]
    job = SuiteJob(folder)
    painters = {} if pipe is None else _painters(request, job, pipe, chunks)
    sources = [painter.source for painter in painters.values()]
    sources += [ImageSource(name=name, folder=path, ours=False) for name, path in request.images.items()]
    is_main = state is None or state.is_main_process
    if is_main:
        plans = {name: _plan_key(painter.plan) for name, painter in painters.items()}
        job.claim(_identity(request, items, pipe), plans)
    scorer = Scorer(
        job=job,
        chunks=chunks,
        painters=painters,
        network=request.network,
        preparation=request.preparation or request.suite.preparation,
        judges=() if request.suite.fidelity else request.judges,
    )
    if state is not None:
        state.wait_for_everyone()  # nobody draws into a folder that is somebody else's
    _work(request, scorer, sources, real, state, on_progress or (lambda phase, done, total: None))
    if state is not None:
        state.wait_for_everyone()
    if not is_main:
        return None
    gathering = Gathering(
        suite=request.suite,
        scorer=scorer,
        sources=sources,
        prompts=request.prompts,
        per_prompt=request.per_prompt,
        real=real,
        environment=environment,
    )

    def settings(shape: tuple[int, ...], conditions: Conditions | None) -> Settings:
        return _settings(request, pipe, shape, conditions)

    report = gathering.report(settings, request.command)
    report.save(folder)
    fps = 1.0 if pipe is None else fps_of(pipe, report.settings.num_frames or 1)
    save_sheet(report, sources, gathering.items, folder, fps=fps)
    return report


def _painters(request: Request, job: SuiteJob, pipe: Any, chunks: Sequence[Sequence[Item]]) -> dict[str, Painter]:
    if is_accelerated(pipe):
        raise ConfigError("the pipeline is accelerated already; evaluate plans on a plain one")
    video = makes_video(pipe)
    if video != (request.suite.kind == "video") and not request.suite.fidelity:
        made = "video" if video else "images"
        raise ConfigError(
            f"'{request.suite.name}' is for {request.suite.kind}s, and {type(pipe).__name__} makes {made}"
        )
    targets = find_targets(pipe)
    settings = replace(request.settings, num_inference_steps=steps_of(pipe, request.settings))
    return {
        name: Painter(
            job=job,
            pipe=pipe,
            source=job.source(name, video=video),
            plan=None if plan is None else resolve_plan(plan, targets),
            settings=settings,
            chunks=chunks,
        )
        for name, plan in request.plans.items()
    }


def _work(
    request: Request,
    scorer: Scorer,
    sources: Sequence[ImageSource],
    real: RealFolder | None,
    state: "PartialState | None",
    on_progress: OnProgress,
) -> None:
    """This process's share."""
    own = _share(len(scorer.chunks), state)

    def counter(phase: str, total: int) -> Callable[[], None]:
        done = 0

        def did() -> None:
            nonlocal done
            done += 1
            on_progress(phase, done, total)

        on_progress(phase, 0, total)
        return did

    for name, painter in scorer.painters.items():
        painter.draw(own, counter(f"drawing {name}", len(own)))
    if real is not None:
        numbers = _share(num_reference_chunks(real.files), state)
        did = counter("reading real images", len(numbers))
        for number in numbers:
            scorer.reference(real.files, real.folder, number)
            did()
    for source in sources:
        did = counter(f"measuring {source.name}", len(own))
        for number in own:
            out = scorer.left_out(sources, number)
            items = [item for item in scorer.chunks[number] if item.name not in out]
            if request.suite.fidelity:
                if source is not sources[0]:
                    scorer.fidelity(source, sources[0], number, items)
            else:
                scorer.quality(source, number, items)
            did()


def _share(count: int, state: "PartialState | None") -> list[int]:
    if state is None:
        return list(range(count))
    with state.split_between_processes(list(range(count))) as own:
        return list(own)


def _identity(request: Request, items: Sequence[Item], pipe: Any) -> dict[str, Any]:
    """Everything that pictures depend on. Not how many processes draw them: chunks do not know of each other."""
    environment = collect_environment()
    identity: dict[str, Any] = {
        "prompts and seeds": digest([[item.name, item.prompt, item.seed] for item in items]),
        "batch size": request.batch_size,
        "folders of images": {name: str(path.resolve()) for name, path in request.images.items()},
    }
    if pipe is None:
        return identity
    denoiser = find_denoisers(pipe)[0][1]
    weights = sample_weights(denoiser)
    parameter = next(denoiser.parameters())
    software = {"dit-accel": __version__, **{name: environment.packages.get(name) for name in NUMERIC_PACKAGES}}
    return identity | {
        "model": request.model,
        "weights": None if weights is None else digest(asdict(weights)),
        "scheduler": scheduler_digest(pipe.scheduler),
        "settings": asdict(request.settings),
        "type of device": parameter.device.type,
        "dtype": str(parameter.dtype),
        "torch threads": environment.torch_threads if parameter.device.type == "cpu" else None,
        "software": software,
    }


def _plan_key(plan: AccelerationPlan | None) -> str:
    return PLAIN if plan is None else plan.content_sha256()


def _settings(request: Request, pipe: Any, shape: tuple[int, ...], conditions: Conditions | None) -> Settings:
    common: dict[str, Any] = {
        "model": request.model,
        "guidance_scale": request.settings.guidance_scale,
        "height": shape[-2],
        "width": shape[-1],
        "num_frames": shape[1] if len(shape) == 5 else None,
        "batch_size": request.batch_size,
        "repeats": 0,
        "warmup": 0,
        "prompt_list": "certify" if request.prompts.shipped else None,
        "conditions": conditions,
    }
    if pipe is None:
        empty = {"pipeline_class": "", "denoiser_class": "", "scheduler": "", "device": "", "dtype": ""}
        return Settings.model_validate({**common, **empty, "num_inference_steps": 0})
    denoiser = find_denoisers(pipe)[0][1]
    parameter = next(denoiser.parameters())
    return Settings.model_validate(
        {
            **common,
            "pipeline_class": type(pipe).__name__,
            "denoiser_class": type(denoiser).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            "num_inference_steps": steps_of(pipe, request.settings),
            "device": str(parameter.device),
            "dtype": str(parameter.dtype).removeprefix("torch."),
        }
    )
