"""What distilled students are worth beside their honest rivals.

    python benchmarks/distill.py emoji-flux --student outputs/distill/emoji-flux/perflow/student
    python benchmarks/distill.py emoji-flux --num 200 --student A --student B --time 5

At 1, 2 and 4 evaluations: each student, the teacher in as many steps, and the teacher at its own number of steps of
which as many are computed and the others answered by a trajectory fitted on search prompts. Above them the teacher as
it is. Pictures of the held-out prompts, one seed each; each number says of how many. PSNR is to the teacher's own
picture from the same noise, and means little for a student that adds fresh noise between its steps: it draws another
picture. A finished system is kept, and one of the report that was measured alike is taken over, so that students are
added one after the other; one whose weights have changed is measured anew.
"""

import hashlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file

from dit_accel import AccelerationPlan, DistilledConfig, TrajectoryConfig, accelerated, load_embedded
from dit_accel.calibration.calibrate import SEED
from dit_accel.calibration.fit import fit
from dit_accel.calibration.recording import record
from dit_accel.errors import AccelerationWarning, ConfigError
from dit_accel.evaluation.metrics.features import EffNetLite0Features, extract_features
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.frechet import NAME_EFFNET_LITE0, frechet_distance
from dit_accel.evaluation.metrics.two_tower import EmojiTwoTower
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.passes.distilled import LORA_FILE
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video, steps_of
from dit_accel.plan.config import PassConfig
from dit_accel.prompts import load_prompts
from dit_accel.schedules.theory import typical_steps

RESULTS = Path(__file__).parent / "results"
COVERAGE_NEIGHBOURS = 5
FITTED = "teacher, fitted trajectory"
BATCH = 16

Draw = Callable[[], torch.Tensor]


def coverage(real: torch.Tensor, generated: torch.Tensor, neighbours: int = COVERAGE_NEIGHBOURS) -> float:
    """Share of real pictures that have a generated one among their nearest: Naeem et al. 2020, eq. 4.

    Args:
        real: Features [M, D].
        generated: Features [N, D].
        neighbours: The radius of a real picture is the distance to so manieth other real one.

    Raises:
        ConfigError: There are too few real pictures.
    """
    if len(real) <= neighbours:
        raise ConfigError(f"coverage wants more than {neighbours} real pictures, got {len(real)}")
    radius = torch.cdist(real, real).kthvalue(neighbours + 1, dim=1).values  # the first one is the picture itself
    return float((torch.cdist(real, generated).amin(dim=1) <= radius).float().mean())


class Comparison:
    """Pictures of one pipeline under several plans, and what they are worth.

    Args:
        pipe: An image pipeline.
        count: Held-out prompts.
        real: Features of the real pictures, or ``None`` for no distance.
        work: Keeps the teacher's pictures and the fitted trajectories.
    """

    def __init__(self, pipe: Any, count: int, real: torch.Tensor | None, work: Path) -> None:
        self.pipe, self.real, self.work = pipe, real, work
        held_out = load_prompts("certify", "video" if makes_video(pipe) else "image")
        self.prompts = held_out.prompts[:count]
        self.network = EffNetLite0Features()
        self.judge = EmojiTwoTower(features=self.network)
        self.teacher_steps = steps_of(pipe, GenerationSettings())
        self._teacher: torch.Tensor | None = None

    def draw(self, steps: int, passes: Sequence[PassConfig] = ()) -> torch.Tensor:
        """All held-out prompts, image k from seed k."""
        settings = GenerationSettings(num_inference_steps=steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccelerationWarning)
            if not passes:
                return generate(self.pipe, self.prompts, range(len(self.prompts)), settings, batch_size=BATCH)
            with accelerated(self.pipe, list(passes)):
                return generate(self.pipe, self.prompts, range(len(self.prompts)), settings, batch_size=BATCH)

    def fitted(self, evaluations: int, count: int) -> TrajectoryConfig:
        """The teacher's trajectory with so many computed evaluations, fitted on search prompts."""
        folder = self.fitted_folder(evaluations, count)
        if folder.exists():
            kept = AccelerationPlan.from_pretrained(folder).passes[0]
            assert isinstance(kept, TrajectoryConfig)
            return kept
        searched = load_prompts("search", "image").prompts[:count]

        def draw(first: int, last: int) -> torch.Tensor:
            return generate(self.pipe, searched[first:last], range(SEED + first, SEED + last), GenerationSettings())

        reference = record(self.pipe, draw, 0, count)
        computed = typical_steps(self.teacher_steps, evaluations)
        found = fit(self.pipe, draw, reference, computed, 0, count).config
        AccelerationPlan(passes=(found,)).save_pretrained(folder)
        return found

    def timed(self, evaluations: int, count: int) -> TrajectoryConfig:
        """A trajectory that takes as long as :meth:`fitted`: with theory's weights where the fit is not at hand."""
        if self.fitted_folder(evaluations, count).exists():
            return self.fitted(evaluations, count)
        steps = set(typical_steps(self.teacher_steps, evaluations))
        return TrajectoryConfig(computed=tuple(step in steps for step in range(self.teacher_steps)))

    def fitted_folder(self, evaluations: int, count: int) -> Path:
        """Where such a trajectory is kept."""
        return self.work / f"fitted-{evaluations}-of-{self.teacher_steps}-on-{count}"

    def worth(self, pictures: torch.Tensor) -> dict[str, Any]:
        """Distance and coverage to the real set, alignment, and PSNR to the teacher's own pictures."""
        features = extract_features(self.network, pictures * 2 - 1)
        known = [k for k, prompt in enumerate(self.prompts) if prompt not in set(self.judge.unknown(self.prompts))]
        scores = self.judge.scores(pictures[known], [self.prompts[k] for k in known])
        found: dict[str, Any] = {"n": len(pictures), "alignment": round(statistics.fmean(scores), 4)}
        if self.real is not None:
            found[NAME_EFFNET_LITE0] = round(frechet_distance(self.real, features), 2)
            found["coverage"] = round(coverage(self.real, features), 3)
        psnr = fidelity(pictures, self.teacher).psnr_db
        found["psnr_db"] = round(statistics.fmean(psnr), 2)
        return found

    @property
    def teacher(self) -> torch.Tensor:
        """The teacher's own pictures."""
        file = self.work / f"teacher-{len(self.prompts)}.safetensors"
        if self._teacher is None and file.exists():
            self._teacher = load_file(file)["pictures"]
        if self._teacher is None:
            self._teacher = self.draw(self.teacher_steps)
            save_file({"pictures": self._teacher.contiguous()}, file)
        return self._teacher

    def seconds(self, systems: dict[str, tuple[int, Sequence[PassConfig]]], rounds: int) -> dict[str, float]:
        """Median seconds of one picture of each system, taken in turns."""
        times: dict[str, list[float]] = {name: [] for name in systems}
        settings = {name: GenerationSettings(num_inference_steps=steps) for name, (steps, _) in systems.items()}
        for turn in range(rounds + 1):
            for name, (_, passes) in systems.items():
                with warnings.catch_warnings(), _with(self.pipe, passes):
                    warnings.simplefilter("ignore", AccelerationWarning)
                    begun = time.perf_counter()
                    generate(self.pipe, self.prompts[:1], [turn], settings[name])
                    times[name] += [time.perf_counter() - begun] if turn else []  # the first round warms up
        return {name: round(statistics.median(each), 4) for name, each in times.items()}


def _with(pipe: Any, passes: Sequence[PassConfig]) -> Any:
    import contextlib

    return accelerated(pipe, list(passes)) if passes else contextlib.nullcontext()


def systems(
    comparison: Comparison, students: dict[str, Path], counts: Sequence[int], fit_prompts: int
) -> Iterator[tuple[str, int, Callable[[], tuple[int, Sequence[PassConfig]]]]]:
    """Name, evaluations, and what gives the steps and the passes of each system; fits are made when asked for."""
    whole = comparison.teacher_steps
    yield f"teacher, {whole} steps", whole, lambda: (whole, ())
    for count in counts:
        yield f"teacher, {count} steps", count, lambda count=count: (count, ())  # type: ignore[misc]
        yield (
            f"{FITTED}, {count} of {whole}",
            count,
            lambda count=count: (whole, (comparison.fitted(count, fit_prompts),)),  # type: ignore[misc]
        )
        for name, folder in students.items():
            config = DistilledConfig.from_student(folder)
            yield f"{name}, {count} steps", count, lambda count=count, config=config: (count, (config,))  # type: ignore[misc]


def real_features(model: str) -> torch.Tensor | None:
    """Of the pictures that the embedded pipeline was trained on; ``None`` where they cannot be fetched."""
    from dit_accel.training.recipes import get_recipe
    from dit_accel.training.training_set import load_training_set

    try:
        images = load_training_set(get_recipe(model, "cpu")).images
    except Exception as error:
        print(f"no real pictures, so no distance: {error}", flush=True)
        return None
    return extract_features(EffNetLite0Features(), images.float() / 127.5 - 1)


def main(
    model: Annotated[str, typer.Argument(help="An embedded image pipeline.")],
    student: Annotated[list[Path] | None, typer.Option(help="Folder of a student; several times for several.")] = None,
    counts: Annotated[str, typer.Option(help="Evaluations, by comma.")] = "1,2,4",
    num: Annotated[int, typer.Option(min=2, help="Held-out prompts.")] = 200,
    fit_prompts: Annotated[int, typer.Option(min=2, help="Search prompts of the fitted trajectories.")] = 32,
    rounds: Annotated[
        int,
        typer.Option(
            "--time", min=0, help="Rounds of timing; 0: none. No trajectory is fitted for it: theory's takes as long."
        ),
    ] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = RESULTS,
    work: Annotated[Path, typer.Option(help="Keeps what is measured until the report.")] = Path("outputs/distilled"),
) -> None:
    """Measure every system, one after another."""
    torch.set_num_threads(threads)
    pipe = load_embedded(model)
    pipe.set_progress_bar_config(disable=True)
    students = {(f"{f.parent.name}" if f.name == "student" else f.name): f for f in student or []}
    claim(work / model / "job.json", {"model": model, "num": num, "fit_prompts": fit_prompts}, "a measurement")
    comparison = Comparison(pipe, num, real_features(model), work / model)
    report_file = output / f"distill-{model}.json"
    measured = {**alike(read_json(report_file), num), **(read_json(work / model / "systems.json") or {})}
    digests = {name: weights_digest(folder) for name, folder in students.items()}
    for system, digest in {f"{name}, {n} steps": d for name, d in digests.items() for n in counts.split(",")}.items():
        if measured.get(system, {}).get("weights", digest) != digest:
            del measured[system]
    made = {}
    for name, evaluations, make in systems(comparison, students, [int(c) for c in counts.split(",")], fit_prompts):
        if name not in measured:
            made[name] = make()
        elif rounds:
            is_fitted = FITTED in name
            made[name] = (
                (comparison.teacher_steps, (comparison.timed(evaluations, fit_prompts),)) if is_fitted else make()
            )
        if name not in measured:
            steps, passes = made[name]
            measured[name] = {"evaluations": evaluations, **comparison.worth(comparison.draw(steps, passes))}
            if (student_name := name.rpartition(",")[0]) in digests:
                measured[name]["weights"] = digests[student_name]
            write_json(work / model / "systems.json", measured)
        print(f"{name}: {measured[name]}", flush=True)
    if rounds:
        for system in measured.values():  # times of another day do not stand beside these
            system.pop("seconds", None)
        for name, seconds in comparison.seconds(made, rounds).items():
            measured[name]["seconds"] = seconds
    report = {
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "environment": collect_environment().model_dump(),
        "model": model,
        "prompts": "certify",
        "num": len(comparison.prompts),
        "real_pictures": None if comparison.real is None else len(comparison.real),
        "systems": in_order(measured),
    }
    write_json(report_file, report)
    print(table(report["systems"]), flush=True)


def weights_digest(folder: Path) -> str:
    """Tells students of one name apart."""
    return hashlib.sha256((folder / LORA_FILE).read_bytes()).hexdigest()[:16]


def alike(report: Any, num: int) -> dict[str, Any]:
    """Systems of an earlier report that was made of as many pictures."""
    return dict(report["systems"]) if report and report["num"] == num else {}


def in_order(measured: dict[str, Any]) -> dict[str, Any]:
    """The teacher as it is, then by evaluations: the teacher's two rivals, and students as they came."""
    whole, *rest = sorted(measured.items(), key=lambda item: -item[1]["evaluations"])
    ranked = sorted(rest, key=lambda item: (item[1]["evaluations"], not item[0].startswith("teacher")))
    return dict([whole, *ranked])


def table(measured: dict[str, dict[str, Any]]) -> str:
    """The systems as Markdown."""
    keys = [key for key in (NAME_EFFNET_LITE0, "coverage", "alignment", "psnr_db", "seconds", "n")
            if any(key in row for row in measured.values())]  # fmt: skip
    lines = [f"| system | {' | '.join(keys)} |", "|---" * (len(keys) + 1) + "|"]
    for name, row in measured.items():
        values = [str(row.get(key, "")) for key in keys]
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
