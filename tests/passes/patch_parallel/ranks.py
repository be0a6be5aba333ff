"""Runs tiny pipelines on several gloo ranks of this machine, forked from the test: they start at once."""

from collections.abc import Callable
from typing import Any

import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import PatchParallelConfig, accelerate_pipeline
from dit_accel.passes.patch_parallel.apply import parallel_of
from dit_accel.passes.patch_parallel.launch import run_on_ranks
from dit_accel.passes.patch_parallel.parallel import PatchParallel
from dit_accel.passes.patch_parallel.traffic import Count, Entry
from dit_accel.session.session import session_of


class Drawn:
    """What one rank has drawn, and what it has sent."""

    def __init__(self, latents: torch.Tensor, traffic: list[tuple[Entry, Count]]) -> None:
        self.latents = latents.numpy()  # tensors would travel in shared memory
        self.traffic = traffic

    @property
    def picture(self) -> torch.Tensor:
        return torch.from_numpy(self.latents)

    def sent(self, **wanted: Any) -> int:
        return sum(count.sent for entry, count in self.traffic if matches(entry, wanted))

    def received(self, **wanted: Any) -> int:
        return sum(count.received for entry, count in self.traffic if matches(entry, wanted))


def matches(entry: Entry, wanted: dict[str, Any]) -> bool:
    return all(getattr(entry, name) == value for name, value in wanted.items())


def latents_of(result: Any) -> torch.Tensor:
    return result.images if hasattr(result, "images") else result.frames


def plain(name: str, **call: Any) -> torch.Tensor:
    """What one process draws."""
    return latents_of(tiny_pipeline(name)(**tiny_call(name, **call)))


def parallel(pipe: Any) -> PatchParallel:
    """The pass that is applied to the only denoiser of a pipeline."""
    session = session_of(pipe)
    assert session is not None
    found = parallel_of(session.runtimes[0])
    assert found is not None
    return found


def draw(rank: int, size: int, *, name: str, configs: list[Any], call: dict[str, Any]) -> list[Drawn]:
    """On one rank: draw the same with each plan."""
    made = []
    for config in configs:
        pipe = tiny_pipeline(name)
        accelerate_pipeline(pipe, config, strict=True)
        latents = latents_of(pipe(**tiny_call(name, **call)))
        made.append(Drawn(latents, list(parallel(pipe).groups.traffic)))
    return made


def drawn(size: int, name: str, *configs: Any, **call: Any) -> list[list[Drawn]]:
    """By config, what each rank has drawn; all ranks must have drawn the very same."""
    plans = [PatchParallelConfig(**each) if isinstance(each, dict) else each for each in configs]
    by_rank = on_ranks(draw, size, name=name, configs=plans, call=call)
    by_config = [[each[place] for each in by_rank] for place in range(len(configs))]
    for ranks in by_config:
        assert all(torch.equal(each.picture, ranks[0].picture) for each in ranks), (
            "ranks have drawn different pictures"
        )
    return by_config


def on_ranks(function: Callable[..., Any], size: int, timeout_s: float = 600.0, **arguments: Any) -> list[Any]:
    return run_on_ranks(function, size, arguments=arguments, timeout_s=timeout_s)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative distance."""
    return float((a - b).norm() / b.norm())
