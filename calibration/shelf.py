"""Plans of the front as folders, each there as soon as it is judged: a search that is stopped leaves plans to use.

Beside ``judged.json``: ``13-of-50`` computes 13 of 50 evaluations. A plan that another one beats goes, unless someone
has certified it meanwhile.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from dit_accel.calibration.calls import halves, whole, words
from dit_accel.calibration.front import Point
from dit_accel.errors import ConfigError
from dit_accel.plan.plan import PLAN_FILE, TENSOR_FILE, AccelerationPlan

NAME = re.compile(r"\d+(\.5)?-of-\d+")


def place_of(folder: Path, point: Point) -> Path:
    """Where the plan of a point belongs."""
    return folder / f"{words(point.computed)}-of-{point.num_steps}"


def plan_at(folder: Path, point: Point) -> AccelerationPlan | None:
    """The plan of a point, from its folder; ``None``: there is another one, or none that can be read."""
    try:
        plan = AccelerationPlan.from_pretrained(place_of(folder, point))
    except ConfigError:
        return None
    found = [getattr(plan.passes[0], name, None) for name in ("computed", "conditional")] if plan.passes else []
    full, half = whole(point.computed), halves(point.computed)
    computed, conditional = (tuple(step in each for step in range(point.num_steps)) for each in (full, half))
    return plan if found == [computed, conditional if half else ()] else None


def put(plan: AccelerationPlan, place: Path) -> None:
    """Save a plan so that none of its files is ever there in part.

    Raises:
        ConfigError: It cannot be written; nothing else is lost.
    """
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        plan.save_pretrained(part)
        place.mkdir(exist_ok=True)
        for name in (TENSOR_FILE, PLAN_FILE):
            if (part / name).is_file():
                os.replace(part / name, place / name)
    except OSError as error:
        raise ConfigError(
            f"cannot write '{place}': {error.strerror or error}. What was judged is kept: make room, and run the same "
            "command again"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def tidy(folder: Path, front: Iterable[Point]) -> None:
    """Take away plans that have left the front."""
    tidy_places(folder, [place_of(folder, point) for point in front], NAME)


def tidy_places(folder: Path, wanted: Collection[Path], name: re.Pattern[str]) -> None:
    """Take away plans that are called so, but the wanted ones and those that someone has certified."""
    for place in folder.iterdir():
        if place in wanted or not name.fullmatch(place.name) or not (place / PLAN_FILE).is_file():
            continue
        try:
            certified = AccelerationPlan.from_pretrained(place).certificate is not None
        except ConfigError:
            certified = False
        if not certified:
            shutil.rmtree(place, ignore_errors=True)
