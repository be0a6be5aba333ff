"""Opens what people bring: a plan, a folder of plans, a report, a pipeline, or what the hub has. Checked first.

What says that it is certified is held against its digests, which imports torch.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dit_accel.app.fronts import assemble, models
from dit_accel.app.library import verified
from dit_accel.app.own_models import front_of_pipeline
from dit_accel.app.places import HUB_ID, Places, check_size
from dit_accel.app.plans import PlanFolder, plans_of, read_plan_folder, shipped_folder
from dit_accel.app.points import Front
from dit_accel.app.searches import CHOSEN
from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.report import FORMAT as REPORT_FORMAT
from dit_accel.evaluation.reports.report import REPORT_FILE, Report
from dit_accel.plan.plan import FORMAT as PLAN_FORMAT
from dit_accel.plan.plan import PLAN_FILE, TENSOR_FILE, AccelerationPlan

MODEL_INDEX = "model_index.json"
WANTED = (
    "a report (report.json), a plan (its folder, or its .json and .safetensors), a folder of plans, or a pipeline in "
    "diffusers format"
)


def open_path(places: Places, text: str, model: str = "") -> tuple[str, Front]:
    """Open a path in the folder that may be read, or a hub id; returns a name for it and the front.

    Args:
        places: Says which folder that is.
        text: What was typed.
        model: Of a plan that does not say which model it is for.

    Raises:
        ConfigError: It is none of these, lies elsewhere, or is not valid.
    """
    text = text.strip()
    if not text:
        raise ConfigError(f"nothing was named; give {WANTED}")
    if HUB_ID.fullmatch(text) and not (places.root / text).exists():
        folder = _from_hub(text)
        if not (folder / PLAN_FILE).is_file():
            return text, front_of_pipeline(text, folder / MODEL_INDEX)
        front = verified(_front([read_plan_folder(folder)], model))
        return text, replace(front, points=tuple(replace(p, hub=text) if p.folder else p for p in front.points))
    path = places.inside(text)
    if (path / MODEL_INDEX).is_file():
        return _name(text), front_of_pipeline(str(path), path / MODEL_INDEX)
    return _name(text), _open(path, model)


def open_uploads(places: Places, files: Sequence[str | Path], model: str = "") -> tuple[str, Front]:
    """Open files that were uploaded: one report, or a plan with its tensors and its report.

    They are copied under names of ours; what they were called counts for nothing.

    Raises:
        ConfigError: They are something else, too large, or not valid.
    """
    paths = [Path(file) for file in files]
    if not paths:
        raise ConfigError(f"nothing was uploaded; give {WANTED}")
    named = {}
    for path in paths:
        check_size(path)
        name = TENSOR_FILE if path.suffix == ".safetensors" else _json_kind(path)
        if name in named:
            raise ConfigError(f"'{path.name}' is a second {name}; open one plan or report at a time")
        named[name] = path
    if TENSOR_FILE in named and PLAN_FILE not in named:
        raise ConfigError(f"the tensors of a plan say nothing without its {PLAN_FILE}: upload both")
    digest = hashlib.sha256(b"".join(named[name].read_bytes() for name in sorted(named))).hexdigest()[:12]
    folder = places.opened / digest
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in named.items():
        shutil.copyfile(path, folder / name)
    try:
        front = _open(folder, model)
    except ConfigError:
        shutil.rmtree(folder)
        raise
    first = front.points[1].label if len(front.points) > 1 else "report"
    return f"{first} ({digest[:4]})", front


def open_search(folder: Path, model: str) -> Front:
    """The plans that a search has saved, the certified one among them."""
    plans, notes = plans_of(folder)
    contents = {plan.folder: _content(plan.folder) for plan in plans}
    certified = {contents[plan.folder] for plan in plans if plan.certificate is not None} - {""}
    # "chosen" is one of the others a second time, and so is what was certified. A name says how many evaluations are
    # computed, and not which.
    kept = [
        plan
        for plan in plans
        if plan.certificate is not None or (contents[plan.folder] not in certified and plan.folder.name != CHOSEN)
    ]
    if not kept:
        raise ConfigError(f"the search in '{folder.name}' has saved no plan yet")
    front = assemble(model, kept, [], notes)
    labels = Counter(point.label for point in front.points)
    points = [
        replace(point, label=f"{point.label} ({contents[point.folder][:4]})")
        if labels[point.label] > 1 and point.folder is not None
        else point
        for point in front.points
    ]
    return verified(replace(front, points=tuple(points)))


def _content(folder: Path) -> str:
    """Digest of what a plan does; empty: it cannot be read."""
    try:
        return AccelerationPlan.from_pretrained(folder).content_sha256()
    except ConfigError:
        return ""


def _open(path: Path, model: str) -> Front:
    if path.is_file():
        check_size(path)
        if _json_kind(path) == REPORT_FILE:
            return _of_report(Report.load(path))
        if path.name != PLAN_FILE:
            raise ConfigError(
                f"a plan's file is called {PLAN_FILE}; '{path.name}' may have lost its tensors and report"
            )
        path = path.parent
    if (path / PLAN_FILE).is_file():
        return verified(_front([read_plan_folder(path)], model))
    plans, faults = plans_of(path)
    if plans:
        return verified(_front(plans, model, faults))
    if (path / REPORT_FILE).is_file():
        return _of_report(Report.load(path))
    raise ConfigError(faults[0] if faults else f"'{path.name}' holds nothing to open; give {WANTED}")


def _json_kind(path: Path) -> str:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"'{path.name}' is not valid JSON ({error}); the file may be truncated") from error
    kind = data.get("format") if isinstance(data, dict) else None
    if kind == REPORT_FORMAT:
        return REPORT_FILE
    if kind == PLAN_FORMAT:
        return PLAN_FILE
    raise ConfigError(f"'{path.name}' is no dit-accel file: its 'format' is {kind!r}; give {WANTED}")


def _front(plans: Sequence[PlanFolder], model: str, notes: Sequence[str] = ()) -> Front:
    found = {name for plan in plans if (name := _model_of(plan))}
    if len(found) > 1:
        raise ConfigError(f"these plans are for several models: {', '.join(sorted(found))}; open those of one")
    name = next(iter(found), model.strip())
    if not name:
        raise ConfigError("this plan does not say which model it was made for: name the model, and open it again")
    return assemble(name, plans, [], notes)


def _model_of(plan: PlanFolder) -> str:
    """What the certificate says; else the embedded pipeline whose shipped plans have the same fingerprint."""
    if plan.certificate is not None:
        return plan.certificate.model
    for model in models():
        shipped, _ = plans_of(shipped_folder() / model)
        if plan.file.fingerprint and any(each.file.fingerprint == plan.file.fingerprint for each in shipped):
            return model
    return ""


def _of_report(report: Report) -> Front:
    return assemble(report.settings.model, [], [report])


def _from_hub(repo: str) -> Path:
    """Fetch what says what a repository is: a plan with all its files, or else the index of a pipeline."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for wanted in (PLAN_FILE, MODEL_INDEX):
        try:
            path = Path(hf_hub_download(repo, wanted))
        except LocalEntryNotFoundError as error:
            missing: Exception = error  # no connection; the other file may still be in the local cache
            continue
        except EntryNotFoundError as error:
            missing = error
            continue
        except Exception as error:  # a dozen kinds, from the hub client and the network
            missing = error
            break
        if wanted == PLAN_FILE:
            _with_the_rest(repo)
        return path.parent
    raise ConfigError(
        f"nothing was found on the hub at '{repo}': it cannot be reached, or holds no plan and no pipeline "
        f"({_one_line(missing)})"
    ) from missing


def _with_the_rest(repo: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for name in (TENSOR_FILE, REPORT_FILE):
        try:
            hf_hub_download(repo, name)
        except EntryNotFoundError:
            continue


def _name(text: str) -> str:
    return text.rstrip("/").removesuffix(f"/{PLAN_FILE}").removesuffix(f"/{REPORT_FILE}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
