"""Patch parallelism as a pass: DistriFusion (Li et al., 2402.19481) and PCPP (Zhang et al., 2412.02962), live.

Every rank runs the whole pipeline on the same latents. Inside a denoiser call, behind its embedding, a rank goes on
with its own rows; in front of the end everybody is given everybody's. Between, layers that look at other rows get them
through :class:`~dit_accel.passes.patch_parallel.mailbox.Mailbox`, fresh or of the evaluation before. What PCPP's paper
describes and its released code does not do is done here: only the halo of a neighbour's rows that is seen is sent.

A module that a cache answers is not called, so it sends nothing; nor does a call that a trajectory answers.
"""

from dit_accel.families.base import submodule
from dit_accel.families.targets import Target
from dit_accel.passes.attention.routing import KINDS, SCORES, routable
from dit_accel.passes.base import Pass, register_pass
from dit_accel.passes.patch_parallel.config import NAME, PatchParallelConfig
from dit_accel.passes.patch_parallel.groups import job
from dit_accel.passes.patch_parallel.linear import linear_attentions
from dit_accel.passes.patch_parallel.parallel import PatchParallel
from dit_accel.passes.patch_parallel.splits import SPLITS
from dit_accel.passes.patch_parallel.unet import why_no_rows
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime

INNERMOST = 100  # inside of whatever answers calls: an answered call sends nothing
WHAT = "denoiser work on other ranks"


def apply_patch_parallel(runtime: DenoiserRuntime, config: PatchParallelConfig) -> None:
    """Let one denoiser be computed by all ranks of the job; in a job of one it is left as it is.

    Raises:
        UnsupportedModelError: Guidance was to be split and cannot be.
        CommunicationError: The ranks cannot reach each other.
    """
    if job()[1] == 1:
        return
    parallel = PatchParallel(runtime, config)
    runtime.each_run(parallel.begin, by=NAME)
    runtime.around(parallel, order=INNERMOST, by=NAME)
    runtime.stay_eager("speaks with other ranks in the middle of the denoiser", by=NAME)


def parallel_of(runtime: DenoiserRuntime) -> PatchParallel | None:
    """What the pass has put around a denoiser's calls; ``None`` in a job of one."""
    found = runtime.around_of(NAME)
    return found if isinstance(found, PatchParallel) else None


def effect_of_patch_parallel(runtime: DenoiserRuntime, config: PatchParallelConfig) -> Effect | None:
    """Share of the rows and branches that this rank leaves to others."""
    parallel = parallel_of(runtime)
    if parallel is None:
        return None
    size = parallel.groups.size
    if not runtime.stats.calls:
        return Effect(what=WHAT, planned_frac=1 - 1 / size)
    own = (0.5 if parallel.guided else 1.0) * (parallel.share.frac if parallel.share else 1.0)
    return Effect(what=WHAT, planned_frac=1 - 1 / size, actual_frac=1 - own, total=size)


def _obstacles(target: Target, config: PatchParallelConfig) -> list[str]:
    name = target.family.name
    if name not in SPLITS:
        return [
            f"where the rows of the family '{name}' are to be cut is not known (known: {', '.join(SPLITS)}); describe "
            "it with dit_accel.passes.patch_parallel.splits.register_split"
        ]
    split = SPLITS.get(name)
    paths = [cut.path for cut in split.cuts] + [split.gather]
    missing = [path for path in paths if submodule(target.denoiser, path) is None]
    found = [f"it has no module '{path}'" for path in missing]
    if split.kind == "rows":
        found += why_no_rows(target.denoiser)
    routed = {site.info.id for site, _ in (*routable(target), *linear_attentions(target))}
    for site in target.layout.sites:
        if site.info.kind in KINDS and site.info.id not in routed:
            found.append(f"'{site.info.id}' does not hand its keys and values on to a function that can be replaced")
    return found


_LOCAL = (
    "it decides by how much a rank's own rows have changed, so the ranks would decide differently and wait for each "
    "other for ever; a fixed schedule or a trajectory is the same on all"
)

register_pass(
    Pass(
        config=PatchParallelConfig,
        summary="several ranks compute one picture, each its own rows or guidance branch (DistriFusion, PCPP)",
        phase="calls",
        claims=frozenset((SCORES,)),
        conflicts={"teacache": _LOCAL, "first_block_cache": _LOCAL},
        obstacles=_obstacles,
        example=PatchParallelConfig,
        apply=apply_patch_parallel,
        effect=effect_of_patch_parallel,
    )
)
