"""Where the candidates of ``dit-accel calibrate`` are judged: here, in processes, on a Ray cluster, by a launcher."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.calibration.spread import Spread


def spread_for(load: "Callable[[], Any]", workers: int, ray: bool, threads: int) -> "Spread":
    """Where candidates are judged.

    Raises:
        ConfigError: It was asked for in two ways at once.
        MissingDependencyError: Ray is not installed.
    """
    from dit_accel.calibration.on_ranks import launched, meet, on_ranks
    from dit_accel.calibration.spread import here

    if launched():
        if workers or ray:
            raise ConfigError(
                "a launcher started this, and its processes are the workers: leave out --workers and --ray"
            )
        meet()
        return on_ranks
    if ray:
        from dit_accel.calibration.on_ray import on_ray

        return on_ray(load, max(1, workers), threads=threads)
    if workers:
        from dit_accel.calibration.processes import on_processes

        return on_processes(load, workers, threads=threads)
    return here
