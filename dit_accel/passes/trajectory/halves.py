"""Calls of which the conditional guidance branch alone is computed, and the unconditional one is answered.

What the other branch gives has changed since it was last computed nearly as the conditional one has, which is at hand:
its answer is a sum of earlier outputs of both branches and of this one's own. In a batch of two this halves the
arithmetic of the call; where a pipeline makes two calls, the second one is saved.

On emoji-pixart it did not pay at three- and fourfold (``docs/trajectories.md``): whole calls were worth more.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dit_accel.passes.trajectory.config import LATENTS, NOISE
from dit_accel.passes.trajectory.history import History, Weights
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.trees import Tree, leaves, map_tree

# Arguments whose first axis is the batch, beside the latents and the prompt; others of that length are not touched.
BATCHED = frozenset(
    (
        "timestep",
        "added_cond_kwargs",
        "attention_mask",
        "class_labels",
        "cross_attention_kwargs",
        "down_block_additional_residuals",
        "encoder_attention_mask",
        "guidance",
        "mid_block_additional_residual",
        "pooled_projections",
        "prompt_attention_mask",
        "timestep_cond",
    )
)


def split(row: Sequence[float]) -> tuple[dict[int, float], dict[int, float]]:
    """One row of ``cross``: weights of unconditional outputs and of the latents, and of conditional outputs."""
    steps = len(row) // 2 - 1
    own = {place: weight for place, weight in enumerate(row[:steps]) if weight}
    own |= {key: row[key] for key in (LATENTS, NOISE) if row[key]}
    return own, {place: weight for place, weight in enumerate(row[steps : 2 * steps]) if weight}


def conditional_half(
    call: Call, names: Sequence[str], conditioning: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]] | str:
    """Arguments of a call for the second half of its batch alone, or why there are none such.

    Args:
        call: Of both branches in one batch, the unconditional one first.
        names: Of the positional arguments, the latents first.
        conditioning: Of the arguments that carry the prompt.
    """
    return half_of_batch(call, names, conditioning, 1)


def half_of_batch(
    call: Call, names: Sequence[str], conditioning: Sequence[str], half: int
) -> tuple[tuple[Any, ...], dict[str, Any]] | str:
    """As :func:`conditional_half`, of the first (0) or second (1) half of the batch."""
    named = [*zip(names, call.args, strict=False), *call.kwargs.items()]
    if not named or not isinstance(named[0][1], torch.Tensor) or len(named[0][1]) % 2:
        return "its latents are no batch of two halves"
    size = len(named[0][1])
    known = BATCHED.union(conditioning, (named[0][0],))

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.chunk(2)[half] if tensor.dim() and len(tensor) == size else tensor

    for name, value in named:
        if name not in known and any(tensor.dim() and len(tensor) == size for tensor in leaves(value)):
            return f"whether the first axis of '{name}' is the batch is not known"
    halved = {name: map_tree(cut, value) for name, value in named if name in known}
    args = tuple(halved.get(name, value) for name, value in named[: len(call.args)])
    return args, {name: halved.get(name, value) for name, value in call.kwargs.items()}


def compute_half(call: Call, inner: Inner, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Tree:
    """Call the denoiser with these arguments; the call has its own ones again afterwards."""
    whole = call.args, call.kwargs
    call.args, call.kwargs = arguments
    try:
        return inner(call)
    finally:
        call.args, call.kwargs = whole


def answer_unconditional(
    history: History, weights: tuple[Weights, Weights], latents: Any, computed: Tree, step: int
) -> Tree:
    """Both halves: the unconditional one answered, the conditional one as it was computed.

    Args:
        history: Of both branches in one batch.
        weights: Of :func:`split`.
        latents: What the denoiser was to be given, for both.
        computed: The conditional output of this call.
        step: The evaluation.
    """
    own, other = weights
    earlier: Mapping[int, float] = {node: weight for node, weight in other.items() if node != step}
    places = iter(range(len(leaves(computed))))

    def both(now: torch.Tensor) -> torch.Tensor:
        place, size = next(places), len(now)
        total = history.total(place, own, latents, slice(None, size))
        total += history.total(place, earlier, latents, slice(size, None))
        total.add_(now, alpha=other.get(step, 0.0))
        return torch.cat([total.to(now.dtype), now])

    return map_tree(both, computed)


def answer_second_call(
    history: History, partner: History | None, weights: tuple[Weights, Weights], latents: Any
) -> Tree | None:
    """The unconditional output of a pipeline that makes two calls; ``None``: something of it is not at hand.

    Args:
        history: Of the unconditional branch.
        partner: Of the conditional one, whose call of this step has been made.
        weights: Of :func:`split`.
        latents: What the denoiser was to be given.
    """
    own, other = weights
    if partner is None or not history.has(own) or not partner.has(other):
        return None
    places = iter(range(len(leaves(history.form))))

    def sum_of(like: torch.Tensor) -> torch.Tensor:
        place = next(places)
        return (history.total(place, own, latents) + partner.total(place, other, latents)).to(like.dtype)

    return map_tree(sum_of, history.form)
