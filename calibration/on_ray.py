"""Hands that are actors of Ray, on a cluster whose machines all see the calibration's folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dit_accel.calibration.books import Steps
from dit_accel.calibration.judging import Judge, Verdict
from dit_accel.calibration.spread import Errand, HandLostError, Map, Spread, crew_of
from dit_accel.errors import MissingDependencyError


def on_ray(load: Callable[[], Any], count: int, *, threads: int = 1) -> Spread:
    """Judge on a cluster: the one that ``RAY_ADDRESS`` names or that runs here, else one of this machine alone.

    Args:
        load: Loads the pipeline in each actor.
        count: How many actors. One takes a GPU where the leader's pipeline is on one, else ``threads`` CPUs.
        threads: CPU threads of torch in each.

    Raises:
        MissingDependencyError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError.for_extra("ray", "ray", "judging on a cluster") from error

    @contextmanager
    def spread(errand: Errand, judge: Judge) -> Iterator[Map]:
        ray.init(ignore_reinit_error=True, log_to_driver=False)
        gpus = int(str(getattr(judge.pipe, "device", "cpu")).startswith("cuda"))
        actor = ray.remote(num_cpus=threads, num_gpus=gpus)(Actor)

        def ready(hands: Sequence[_OnRay]) -> list[_OnRay]:
            done, _ = ray.wait([hand.future for hand in hands], num_returns=1)
            return [hand for hand in hands if hand.future in done]

        with crew_of(lambda: _OnRay(ray, actor.remote(load, errand, threads)), ready, count) as judge_all:
            yield judge_all

    return spread


class Actor:
    """What lives on the cluster: a pipeline, and its judge."""

    def __init__(self, load: Callable[[], Any], errand: Errand, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._judge = errand.judge_on(load())

    def judge(self, steps: Steps) -> dict[str, Any]:
        """Judge one candidate."""
        return self._judge(steps).to_plain()


class _OnRay:
    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor
        self.future: Any = None

    def give(self, steps: Steps) -> None:
        self.future = self.actor.judge.remote(steps)

    def take(self) -> Verdict:
        try:
            return Verdict.from_plain(self.ray.get(self.future))
        except self.ray.exceptions.RayActorError as error:
            raise HandLostError(f"an actor of Ray died: {' '.join(str(error).split())}") from error
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error

    def dismiss(self) -> None:
        self.ray.kill(self.actor)
