"""Which guidance branch a call, or a half of its batch, belongs to."""

from typing import Any

from dit_accel.families.targets import Target
from dit_accel.passes.trajectory.config import NAME
from dit_accel.runtime.call import Call

CONDITIONAL, UNCONDITIONAL, BOTH = "cond", "uncond", "both"  # the first two as pipelines name them


def why_no_branches(target: Target) -> str | None:
    """Why the guidance branches of a denoiser cannot be told apart; ``None``: they can."""
    if target.family.guidance in ("batched", "two_calls"):
        return None
    found = "guidance is distilled into the model" if target.family.guidance == "distilled" else "that is not known"
    return (
        f"'{NAME}' cannot answer the two guidance branches of '{target.name}' by weights of their own: of the family "
        f"'{target.family.name}', {found}"
    )


def branch_of(call: Call, target: Target, owner: Any) -> str | None:
    """What a call is for: one of the two branches, or both in one batch, the unconditional half first.

    Without guidance there is the conditional branch alone.

    Args:
        call: The call.
        target: Its denoiser.
        owner: The pipeline.

    Returns:
        ``None``: it cannot be told.
    """
    if target.family.guidance == "two_calls":
        return call.branch if call.branch in (CONDITIONAL, UNCONDITIONAL) else None
    guided = getattr(owner, "do_classifier_free_guidance", None)
    if not isinstance(guided, bool):
        scale = call.run.conditions.guidance_scale
        if scale is None:
            return None
        guided = scale > 1
    return BOTH if guided else CONDITIONAL
