"""Gradient checkpointing of a network that several roles share: blocks are computed again in the backward pass.

By then somebody else may act: the student's loss also asks the teacher and the critic, and what they answered last is
who the network still is, or nobody is inside the student's attention any more. So each block remembers for whom it was
computed and is computed again as that one.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from dit_accel.errors import UnsupportedModelError
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.roles import STUDENT, Roles


def enable_checkpointing(roles: Roles, objective: DistillObjective) -> None:
    """Keep of each block of every role's network its inputs alone, wherever gradients are wanted.

    Raises:
        UnsupportedModelError: The network's blocks cannot be checkpointed.
    """

    @contextlib.contextmanager
    def as_before(role: str) -> Iterator[None]:
        inside = objective.acting() if role == STUDENT else contextlib.nullcontext()
        with roles.acting(role), inside:
            yield

    def compute(block: nn.Module, *inputs: Any) -> Any:
        role = roles.who

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return contextlib.nullcontext(), as_before(role)

        return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)

    for network in roles.networks():
        if not getattr(network, "_supports_gradient_checkpointing", False):
            raise UnsupportedModelError(f"the blocks of {type(network).__name__} cannot be checkpointed")
        network.enable_gradient_checkpointing(compute)  # type: ignore[operator]
