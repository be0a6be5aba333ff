"""What a report says of a contender in a comparison of techniques: whose it is, how it was set, what it really did."""

from typing import Any, Literal

from pydantic import Field

from dit_accel.evaluation.reports.records import Record


class Action(Record):
    """What a contender left out of the denoiser's work, counted on the modules themselves over all samples.

    Attributes:
        calls: Computations of the denoiser's linear and convolution layers that took place.
        plain_calls: The same in the plain run.
        macs: Multiply-accumulates of those and of attention products.
        plain_macs: The same in the plain run.
        saved_by_kind: Share of the plain run's calls that did not take place, by kind of module, e.g. ``self_attn``.
    """

    calls: int = Field(ge=0)
    plain_calls: int = Field(ge=0)
    macs: int = Field(ge=0)
    plain_macs: int = Field(ge=0)
    saved_by_kind: dict[str, float] = Field(default_factory=dict)

    @property
    def hits(self) -> int:
        """Layer computations of the plain run that did not take place."""
        return max(0, self.plain_calls - self.calls)

    @property
    def saved_frac(self) -> float:
        """Share of the plain run's multiply-accumulates that was saved."""
        return 1.0 - self.macs / max(1, self.plain_macs)

    @property
    def acted(self) -> bool:
        """Whether anything was saved: fewer calls, or calls on smaller batches."""
        return self.hits > 0 or self.macs < self.plain_macs


class Contender(Record):
    """One technique with one choice of parameters.

    Attributes:
        rival: Name of the technique, the same for all its settings.
        method: Who published it, where.
        made_by: Whose code ran, e.g. ``diffusers``, or ours after a paper.
        advice: What its authors recommend, and where they say so.
        advised: Whether this is that recommendation.
        params: Parameters by their own names.
        action: ``None`` where nothing was counted.
        note: What a reader must know of this setting.
    """

    rival: str
    method: str
    made_by: str
    advice: str
    advised: bool
    params: dict[str, Any]
    action: Action | None = None
    note: str = ""


class Absent(Record):
    """A technique or setting that was to be measured and was not.

    Attributes:
        name: Of the setting, or of the technique where none of its settings could be run.
        rival: Name of the technique.
        status: ``no adapter``: it cannot act on this model; ``failed``: it raised an error; ``not measured``: the time
            allowed was over, or it was left out.
        reason: One sentence.
    """

    name: str
    rival: str
    status: Literal["no adapter", "not installed", "failed", "not measured"]
    reason: str
