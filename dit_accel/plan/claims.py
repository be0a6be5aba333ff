"""The parts of a certificate: what was measured, on what, where, and beside whom."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from dit_accel.plan.conformal import Bound


class Claim(BaseModel):
    """Frozen, finite, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Measured(Claim):
    """One metric over all images or videos.

    Attributes:
        mean: The mean.
        ci95: Bootstrap interval of the mean.
        worst5: Mean of the worst five per cent.
        bound: What nine of ten new prompts keep; ``None``: too few were measured, or of an older version.
    """

    mean: float
    ci95: tuple[float, float]
    worst5: float
    bound: Bound | None = None


class Prompts(Claim):
    """Which prompts and seeds it was measured on; prompt number k has the seed ``first_seed + k``.

    Attributes:
        source: ``"certify"`` for the list that ships with this library, ``"own"`` for the caller's.
        kind: ``"image"`` or ``"video"``.
        version: Of the shipped list.
        sha256: Digest of the prompts in order.
        n: How many.
        first_seed: Seed of the first one.
    """

    source: Literal["certify", "own"]
    kind: Literal["image", "video"]
    version: int | None = None
    sha256: str
    n: int
    first_seed: int


class SpeedClaim(Claim):
    """How much faster, and where: holds on this device and type only.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        device_name: Of the GPU, or of the processor.
        threads: Of torch, on a CPU.
        dtype: Of the denoiser.
        batch_size: Images or videos a timed call made.
        rounds: Interleaved timed rounds.
        denoiser_ratio: Time of the plain denoiser over that of the accelerated one.
        denoiser_ci95: Bootstrap interval of that median over the rounds.
        run_ratio: The same of whole pipeline calls.
        run_ci95: Its interval.
    """

    device: str
    device_name: str
    threads: int | None = None
    dtype: str
    batch_size: int
    rounds: int
    denoiser_ratio: float
    denoiser_ci95: tuple[float, float]
    run_ratio: float
    run_ci95: tuple[float, float]


class EffectClaim(Claim):
    """What one pass said that it does, and did, over all denoisers.

    Attributes:
        name: Of the pass.
        what: What the shares count.
        planned_frac: Planned share.
        actual_frac: Share that was measured; ``None``: not counted.
    """

    name: str
    what: str
    planned_frac: float
    actual_frac: float | None = None


class FewerSteps(Claim):
    """The plain pipeline with as many steps as fit into the plan's time, on the same prompts and seeds."""

    num_inference_steps: int
    run_ratio: float
    fidelity: dict[str, Measured]
