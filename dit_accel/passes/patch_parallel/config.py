"""The settings of patch parallelism."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.plan.config import PassConfig

NAME = "patch_parallel"
FEW_STEPS = 4  # up to here a run is one of a step-distilled model, whose steps have little in common

Mode = Literal["sync", "stale", "partial"]
Guidance = Literal["auto", "on", "off"]
KeysAndValues = Literal["native", "int8"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchParallelConfig(PassConfig):
    """Let the ranks of a torch.distributed job compute one picture together.

    Each rank runs the whole pipeline; inside the denoiser it has its own rows of the picture only. In a process
    without a job, or in a job of one, it changes nothing.

    Args:
        mode: How a layer gets what it needs of the other ranks' rows. ``"sync"``: waits for it, exact. ``"stale"``:
            takes that of the step before, while that of this step is on its way (DistriFusion, Li et al., 2402.19481).
            ``"partial"``: as ``"stale"``, and self-attention sees of the other rows only ``halo`` of the two
            neighbours' (PCPP, Zhang et al., 2412.02962).
        halo: For ``"partial"``: the share of a neighbour's rows, nearest first; at least one row is taken.
        warmup: How many evaluations of a run wait for fresh values before stale ones are used; at least 1, since the
            first has none. (DistriFusion counts the first one apart: its 4 are our 5.)
        guidance: Whether half of the ranks compute each branch of classifier-free guidance, which is exact and sends
            next to nothing. ``"auto"``: where it can be done; the pass says where it cannot.
        keys_and_values: ``"int8"`` sends keys and values rounded to 8 bits, with one scale for each token and head.
        timeout_s: After which a rank that does not answer ends the run with an error; on GPUs NCCL's watchdog ends the
            process.
        careful: Compare what ranks are about to do before every operation; for finding mistakes, slow.

    Raises:
        ConfigError: A value is out of range.
    """

    type_name: ClassVar[str] = NAME

    mode: Mode = "stale"
    halo: float = 0.3
    warmup: int = 4
    guidance: Guidance = "auto"
    keys_and_values: KeysAndValues = "native"
    timeout_s: float = 120.0
    careful: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("mode", MODES),
            ("guidance", get_args(Guidance)),
            ("keys_and_values", ("native", "int8")),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(
                    f"'{name}' must be one of {', '.join(known)}, got {value!r}.{did_you_mean(str(value), known)}"
                )
        if not isinstance(self.halo, int | float) or not 0 < self.halo <= 1:
            raise ConfigError(f"'halo' is a share of a neighbour's rows, above 0 and at most 1; got {self.halo!r}")
        if isinstance(self.warmup, bool) or not isinstance(self.warmup, int) or self.warmup < 1:
            raise ConfigError(
                f"'warmup' must be a whole number from 1 on (the first evaluation has nothing stale to use), "
                f"got {self.warmup!r}"
            )
        if not isinstance(self.timeout_s, int | float) or not 0 < self.timeout_s < float("inf"):
            raise ConfigError(f"'timeout_s' must be a positive number of seconds, got {self.timeout_s!r}")

    def why_not_stale(self, evaluations: int) -> str | None:
        """Why a run of so many computed evaluations cannot use stale values; ``None``: it can."""
        if self.mode == "sync":
            return None
        if evaluations <= FEW_STEPS:
            return (
                f"'{self.mode}' uses values of the evaluation before, and the {evaluations} of this run are too far "
                "apart for that: use mode='sync', which is exact, or a context parallel of diffusers"
            )
        if evaluations <= self.warmup:
            return (
                f"the {evaluations} evaluations of this run are all warm-up (warmup={self.warmup}), so nothing would "
                "be sent in time to be of use: use mode='sync', or a shorter warm-up"
            )
        return None
