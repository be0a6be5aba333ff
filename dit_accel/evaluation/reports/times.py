"""The records of time in a report: seconds, and ratios of them, as median and spread."""

from dit_accel.evaluation.reports.records import Record
from dit_accel.evaluation.reports.statistics import bootstrap_median_interval, quartiles


class Times(Record):
    """Wall-clock seconds of one run over all prompts.

    Attributes:
        samples_s: Every timed run, in order.
        median_s: Their median.
        iqr_s: Their lower and upper quartile.
    """

    samples_s: tuple[float, ...]
    median_s: float
    iqr_s: tuple[float, float]

    @classmethod
    def of(cls, samples_s: list[float]) -> "Times":
        low, median, high = quartiles(samples_s)
        return cls(samples_s=tuple(samples_s), median_s=median, iqr_s=(low, high))


class Speedup(Record):
    """How many times faster than the plain pipeline, by the clock.

    Attributes:
        ratio: Time of the plain pipeline over the time of this one, within each round of the interleaved runs; the
            median of the rounds, in which the machine's drift cancels.
        iqr: Quartiles of that ratio.
        ci95: Bootstrap interval of the median; it knows the rounds of one process only, not other days or machines.
            ``None`` in reports of version 1.
    """

    ratio: float
    iqr: tuple[float, float]
    ci95: tuple[float, float] | None = None

    @classmethod
    def of(cls, plain_s: list[float], own_s: list[float]) -> "Speedup":
        ratios = [a / b for a, b in zip(plain_s, own_s, strict=True)]
        low, ratio, high = quartiles(ratios)
        return cls(ratio=ratio, iqr=(low, high), ci95=bootstrap_median_interval(ratios))


class DenoiserCost(Record):
    """What the denoiser alone takes in one run; the rest of a pipeline is not touched by a plan.

    Attributes:
        times: Seconds in the denoiser a run, medians as for whole runs.
        speedup: Against the denoiser of ``plain``.
        macs: Multiply-accumulates of a run, attention counted, guidance and batch included; ``None``: not counted.
        macs_linear: The same without the products of attention, as the ECAD paper counts.
        allowed_speedup: Multiply-accumulates of ``plain`` over these: what saved arithmetic alone would give.
        overhead_frac: Share of the denoiser's time that is spent outside its own ``forward``, median over the runs;
            ``None`` where it was not measured.
    """

    times: Times
    speedup: Speedup | None = None
    macs: int | None = None
    macs_linear: int | None = None
    allowed_speedup: float | None = None
    overhead_frac: float | None = None

    @property
    def attained_frac(self) -> float | None:
        """Share of the allowed speed-up that the clock shows; ``None`` where that is not counted."""
        if self.allowed_speedup is None:
            return None
        return (self.speedup.ratio if self.speedup else 1.0) / self.allowed_speedup
