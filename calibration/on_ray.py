"""Hands that are actors of Ray, on a cluster whose machines all see the calibration's folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dit_accel.calibration.spread import Answer, AnyErrand, HandLostError, Map, Spread, Task, crew_of
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
    def spread(errand: AnyErrand, judge: Callable[[Task], Answer]) -> Iterator[Map]:
        ray.init(ignore_reinit_error=True, log_to_driver=False)
        gpus = int(str(getattr(getattr(judge, "pipe", None), "device", "cpu")).startswith("cuda"))
        actor = ray.remote(num_cpus=threads, num_gpus=gpus)(Actor)

        def ready(hands: Sequence[_OnRay]) -> list[_OnRay]:
            done, _ = ray.wait([hand.future for hand in hands], num_returns=1)
            return [hand for hand in hands if hand.future in done]

        def hire() -> _OnRay:
            return _OnRay(ray, actor.remote(load, errand, threads), errand)

        with crew_of(hire, ready, count, errand.lost) as judge_all:
            yield judge_all

    return spread


class Actor:
    """What lives on the cluster: a pipeline, and its judge."""

    def __init__(self, load: Callable[[], Any], errand: AnyErrand, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._judge = errand.judge_on(load())

    def judge(self, task: Task) -> dict[str, Any]:
        """Judge one candidate."""
        return self._judge(task).to_plain()


class _OnRay:
    def __init__(self, ray: Any, actor: Any, errand: AnyErrand) -> None:
        self.ray, self.actor, self.errand = ray, actor, errand
        self.future: Any = None

    def give(self, task: Task) -> None:
        self.future = self.actor.judge.remote(task)

    def take(self) -> Answer:
        try:
            return self.errand.read(self.ray.get(self.future))
        except self.ray.exceptions.RayActorError as error:
            raise HandLostError(f"an actor of Ray died: {' '.join(str(error).split())}") from error
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error

    def dismiss(self) -> None:
        self.ray.kill(self.actor)
