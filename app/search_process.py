"""The process of a search, ``python -m dit_accel.app.search_process FOLDER``: calibrate, save the front, certify."""

import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.app.searches import CERTIFIED, CHOSEN, Search, Status
from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.plan.plan import PLAN_FILE

if TYPE_CHECKING:
    from dit_accel.calibration.calibrate import Calibration
    from dit_accel.plan.plan import AccelerationPlan

SEARCH_SHARE = 0.6  # of the progress bar, where a certification follows
TARGET_SPEEDUP = 2.0  # evaluations saved at least by what is certified where there are no limits, if the front has it


class Stopped(DitAccelError):
    """Someone asked it to."""


class SearchProcess:
    """One run of one search.

    Args:
        search: Its folder; the request lies in it.

    Raises:
        ConfigError: Nothing was asked for.
    """

    def __init__(self, search: Search) -> None:
        request = search.request
        if request is None:
            raise ConfigError(f"nothing was asked for in '{search.folder}'")
        self.search, self.request = search, request
        self.status = Status(state="loading", words=f"loading {request.name}", started=time.time())
        self.found: Calibration | None = None

    def tell(self, **changes: Any) -> None:
        """Renew the status."""
        self.status = replace(self.status, **changes)
        self.search.write(asdict(self.status))

    def run(self) -> None:
        """All of it."""
        self.tell()
        pipe = self._pipe()
        self.tell(state="recording", words="drawing the search prompts plain, once")
        stopped = False
        try:
            self._calibrate(pipe)
        except Stopped:
            stopped = True
        found = self.found
        if found is None or not found.points:
            self.tell(state="stopped", words="stopped before anything was judged")
            return
        chosen, said = self._save(found)
        if self.request.certify and chosen is not None and not stopped:
            try:
                self._certify(pipe, chosen)
            except Stopped:
                stopped = True
        words = f"{len(found.points)} plans judged, {len(found.front)} on the front{said}"
        self.tell(
            state="stopped" if stopped else "done", words=words, done_frac=self.status.done_frac if stopped else 1.0
        )

    def _pipe(self) -> Any:
        import torch

        from dit_accel.cli.model import hush_loading
        from dit_accel.pipelines.loading import load_pipeline, pick_device

        hush_loading()
        torch.set_num_threads(self.request.threads)
        place = pick_device(self.request.device)
        dtype = "bfloat16" if place.type == "cuda" else "float32"
        pipe = load_pipeline(self.request.model, dtype=dtype, device=place, use_safetensors=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _calibrate(self, pipe: Any) -> None:
        from dit_accel.calibration.calibrate import calibrate
        from dit_accel.pipelines.generation import GenerationSettings

        request, share = self.request, SEARCH_SHARE if self.request.certify else 1.0

        def heard(what: str, left_s: float, calibration: "Calibration") -> None:
            self.found = calibration
            done = min(1.0, 1.0 - left_s / request.budget_s) * share
            words = {"record": "measuring what errors grow to", "gains": "choosing steps"}.get(what)
            words = words or (
                f"generation {calibration.generations}: {len(calibration.points)} judged, "
                f"front of {len(calibration.front)}"
            )
            volumes = self.status.volumes
            if what == "generation" and calibration.hypervolume is not None:
                volumes = (*volumes, calibration.hypervolume)
            state = "recording" if what == "record" else "searching"
            self.tell(state=state, words=words, done_frac=done, generations=calibration.generations, volumes=volumes)
            if self.search.asked_to_stop:
                raise Stopped("stopped")

        self.found = calibrate(
            pipe,
            self.search.folder,
            model=request.name,
            settings=GenerationSettings(num_inference_steps=request.steps),
            num_prompts=request.num_prompts,
            budget_s=request.budget_s,
            generations=request.generations,
            on_progress=heard,
        )

    def _save(self, found: "Calibration") -> "tuple[AccelerationPlan | None, str]":
        """Save the front, each plan in a folder of its own; the one that was asked for, and what is said of it."""
        from dit_accel.calibration.front import pick

        folder, front = self.search.folder, found.front
        limits = {"min_speedup": self.request.min_speedup, "min_psnr_db": self.request.min_psnr}
        chosen, said = None, ""
        if any(limit is not None for limit in limits.values()):
            try:
                chosen = pick(front, **limits)
            except ConfigError as error:
                said = f"; none is chosen: {error}"
        elif self.request.certify:
            chosen = pick(front, min_speedup=min(TARGET_SPEEDUP, max(point.saved for point in front)))
        shutil.rmtree(folder / CHOSEN, ignore_errors=True)  # of other limits
        kept = None
        for number, point in enumerate(front):
            self.tell(state="saving", words=f"saving plan {number + 1} of {len(front)}")
            plan = found.plan(point)
            plan.save_pretrained(folder / f"{len(point.computed)}-of-{point.num_steps}")
            if point == chosen:
                kept = plan
                plan.save_pretrained(folder / CHOSEN)
                said = f"; {plan.name} is chosen"
        return kept, said

    def _certify(self, pipe: Any, plan: "AccelerationPlan") -> None:
        from dit_accel.evaluation.certify.certify import certify
        from dit_accel.pipelines.generation import GenerationSettings

        # By what it does, too: a better plan of a later run computes as many evaluations, and has the same name.
        folder = self.search.folder / f"{CERTIFIED}-{plan.name}-{plan.content_sha256()[:8]}"
        if (folder / PLAN_FILE).exists():  # of an earlier run of the same search
            return
        self.tell(state="certifying", words="measuring the chosen plan on held-out prompts")

        def heard(done_s: float, total_s: float) -> None:
            done = SEARCH_SHARE + (1 - SEARCH_SHARE) * min(1.0, done_s / total_s)
            words = f"measuring the chosen plan on held-out prompts, {done_s / total_s:.0%}"
            self.tell(words=words, done_frac=done)
            if self.search.asked_to_stop:
                raise Stopped("stopped")

        certify(
            pipe,
            plan,
            folder,
            model=self.request.name,
            settings=GenerationSettings(num_inference_steps=self.request.steps),
            num_prompts=self.request.certify_prompts,
            allow_small=self.request.certify_prompts is not None,
            on_progress=heard,
        )


def main(folder: Path) -> int:
    """Run the search of a folder; returns the exit status."""
    search = Search(folder)
    process = SearchProcess(search)
    try:
        process.run()
    except DitAccelError as error:
        process.tell(state="failed", words=" ".join(str(error).split()))
        return 2
    except MemoryError:
        process.tell(state="failed", words="there was not enough memory: search with fewer prompts")
        return 1
    except Exception as error:  # torch's out-of-memory among them; the page has to say something
        process.tell(state="failed", words=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
