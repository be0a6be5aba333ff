"""Wall-clock times of several things, taken in turn in one process so that drift of the machine hits all alike."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from dit_accel.errors import ConfigError

Around = Callable[[str], AbstractContextManager[object]]


def time_interleaved(
    runs: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 1,
    around: Around | None = None,
) -> dict[str, list[float]]:
    """Time each callable ``repeats`` times, all of them once a round, GPU work included.

    Every round has an order of its own (seeded), so that no candidate always runs in the wake of the same other one:
    what ran before leaves its mark on caches and clock rates, worth some per cent here.

    Args:
        runs: Name to what is timed.
        repeats: Timed runs of each.
        warmup: Untimed runs of each, first.
        around: Given a name, a context in which each of its runs takes place; entering and leaving is not timed.

    Returns:
        Name to seconds, one entry a repeat; entry k of all names was taken in the same round.

    Raises:
        ConfigError: Nothing to time, or impossible counts.
    """
    if not runs or repeats < 1 or warmup < 0:
        raise ConfigError(f"timing needs something to run, got {len(runs)} runs, {repeats} repeats, {warmup} warm-ups")
    around = around or (lambda name: nullcontext())
    names = list(runs)
    for name in names:
        for _ in range(warmup):
            with around(name):
                runs[name]()
    samples: dict[str, list[float]] = {name: [] for name in names}
    shuffler = random.Random(0)
    for _ in range(repeats):
        for name in shuffler.sample(names, len(names)):
            with around(name):
                samples[name].append(time_once(runs[name]))
    return samples


def time_once(run: Callable[[], object]) -> float:
    """Seconds that one run takes, from an idle device to an idle device."""
    _synchronize()
    start = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
