"""What a calibration has on disk: whose it is, what was judged or skipped, and where the search stands.

JSON alone, with the state of the random numbers as text; nothing is pickled. A file appears whole or not at all, so a
process that is killed leaves the file of the last judgement. What a damaged disk or a hand leaves is not guessed at:
the error names the copy that was made at the end of the last generation.
"""

import random
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_accel.calibration.calls import Steps as Steps
from dit_accel.calibration.front import Point
from dit_accel.errors import ConfigError
from dit_accel.evaluation.progress_files import claim, read_sound, write_json

JOB_FILE, STATE_FILE, COPY_FILE = "job.json", "judged.json", "judged.last-generation.json"
WORDS = 625  # of a Mersenne twister's state
ANEW = "Nothing was deleted. Give another folder, or delete that file to judge everything anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a search stands at the end of a generation: all that the next one depends on.

    Attributes:
        generation: From 0 on.
        population: The survivors, in order.
        judged: How many had been judged by then.
        skipped: How many had been skipped.
        rng: ``random.Random().getstate()``, as text.
    """

    generation: int
    population: tuple[Steps, ...]
    judged: int
    skipped: int
    rng: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "generation": self.generation,
            "population": [list(steps) for steps in self.population],
            "judged": self.judged,
            "skipped": self.skipped,
            "rng": self.rng,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Standing":
        """Read what :meth:`to_dict` wrote."""
        rng_of(data["rng"])
        return cls(**{**data, "population": tuple(tuple(steps) for steps in data["population"])})


def text_of(rng: random.Random) -> str:
    """The state of a random number generator, as text."""
    version, words, spare = rng.getstate()
    if spare is not None:
        raise AssertionError("a search draws no normal numbers")
    return f"{version}: {' '.join(map(str, words))}"


def rng_of(text: str) -> random.Random:
    """The generator that :func:`text_of` wrote down.

    Raises:
        ValueError: It is something else.
    """
    version, _, words = text.partition(": ")
    state = tuple(int(word) for word in words.split())
    if len(state) != WORDS:
        raise ValueError(f"wanted {WORDS} numbers, got {len(state)}")
    rng = random.Random()
    rng.setstate((int(version), state, None))
    return rng


def sweep(folder: Path) -> None:
    """Take away what a killed process was just writing."""
    for part in folder.glob("*.part"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def read_judged(path: Path) -> dict[str, Any] | None:
    """The judgements of a search that keeps them in one file; ``None``: there are none.

    Raises:
        ConfigError: The file is damaged.
    """
    try:
        return read_sound(path)
    except ConfigError as error:
        raise ConfigError(f"{error}. {ANEW}") from error


def forget(folder: Path) -> None:
    """Take away what a search has kept, but for its plans: the next one begins anew."""
    shutil.rmtree(folder / "recording", ignore_errors=True)
    for name in (STATE_FILE, COPY_FILE, "attention.json", "attention.safetensors", JOB_FILE):
        (folder / name).unlink(missing_ok=True)


class Books:
    """The judgements of one calibration, on disk and at hand.

    Args:
        folder: Of the calibration.
        identity: Everything that judgements depend on, as JSON data.

    Attributes:
        points: What was judged, by its computed evaluations.
        skipped: What could not be, and why.
        gains: T numbers; ``None``: not measured yet.
        standing: Of the search at the end of its last generation; ``None``: it has not begun.

    Raises:
        ConfigError: The folder holds the calibration of something else, or a file of it is damaged.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        claim(folder / JOB_FILE, identity, "a calibration")
        sweep(folder)
        self.points: dict[Steps, Point] = {}
        self.skipped: dict[Steps, str] = {}
        self.gains: list[float] | None = None
        self.standing: Standing | None = None
        self._order: dict[Steps, None] = {}
        try:
            data = read_sound(folder / STATE_FILE)
            self._take(data or {})
        except ConfigError as error:
            raise ConfigError(f"{error}. {self._what_to_do()}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            told = f"'{folder / STATE_FILE}' holds no judgements ({type(error).__name__}: {error})"
            raise ConfigError(f"{told}. {self._what_to_do()}") from error

    def _take(self, data: Mapping[str, Any]) -> None:
        self.points = {point.computed: point for point in map(Point.from_dict, data.get("points", ()))}
        self.skipped = {tuple(each["computed"]): str(each["why"]) for each in data.get("skipped", ())}
        gains = data.get("gains")
        self.gains = None if gains is None else [float(gain) for gain in gains]
        if data.get("search") is None:
            return
        self.standing = Standing.from_dict(data["search"])
        self._order = dict.fromkeys(self.tried())
        missing = [steps for steps in self.standing.population if steps not in self._order]
        if missing:
            raise ValueError(f"{len(missing)} of the population were never judged")

    def _what_to_do(self) -> str:
        state, copy = self.folder / STATE_FILE, self.folder / COPY_FILE
        try:
            sound = read_sound(copy) is not None
        except ConfigError:
            sound = False
        if sound:
            command = shlex.join(["cp", str(copy), str(state)])
            return f"Nothing was deleted. What was there at the end of the last generation is still: {command}"
        return ANEW

    def tried(self) -> dict[Steps, Point | None]:
        """All that the search had tried at the end of its last generation; ``None``: skipped."""
        if self.standing is None:
            return {}
        judged = list(self.points.items())[: self.standing.judged]
        skipped = list(self.skipped)[: self.standing.skipped]
        return {**dict(judged), **dict.fromkeys(skipped)}

    def ask(self, batch: Iterable[Steps]) -> None:
        """These are to be judged next, in this order: the file's, whoever is ready first."""
        self._order.update(dict.fromkeys(batch))

    def judge(self, point: Point) -> None:
        """Keep a judgement, here and on disk."""
        self.points[point.computed] = point
        self.write()

    def skip(self, steps: Steps, why: str) -> None:
        """Keep that something could not be judged, and why."""
        self.skipped[steps] = why
        self.write()

    def stand(self, generation: int, population: Iterable[Steps], rng: str) -> None:
        """A generation has ended."""
        self._sort()
        self.standing = Standing(
            generation=generation,
            population=tuple(population),
            judged=sum(steps in self._order for steps in self.points),
            skipped=sum(steps in self._order for steps in self.skipped),
            rng=rng,
        )
        self.write()
        write_json(self.folder / COPY_FILE, self._data())

    def write(self) -> None:
        """Put everything on disk.

        Raises:
            ConfigError: It cannot be written; what was there is there still.
        """
        self._sort()
        write_json(self.folder / STATE_FILE, self._data())

    def _sort(self) -> None:
        """In the order of asking, then what an earlier call was told and this one has not asked for yet."""
        order = {steps: place for place, steps in enumerate(self._order)}
        self.points = dict(sorted(self.points.items(), key=lambda item: order.get(item[0], len(order))))
        self.skipped = dict(sorted(self.skipped.items(), key=lambda item: order.get(item[0], len(order))))

    def _data(self) -> dict[str, Any]:
        return {
            "points": [point.to_dict() for point in self.points.values()],
            "skipped": [{"computed": list(steps), "why": why} for steps, why in self.skipped.items()],
            "gains": self.gains,
            "search": None if self.standing is None else self.standing.to_dict(),
        }
