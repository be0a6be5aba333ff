"""What a plan file may contain: the only place where outside text becomes data."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from dit_accel.errors import ConfigError, did_you_mean


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FingerprintFile(_Strict):
    model_class: str
    sites: str
    config: str


class ConditionsFile(_Strict):
    num_steps: int | None = None
    scheduler: str | None = None
    scheduler_config: dict[str, Any] | None = None
    latent_size: list[int] | None = None
    token_grid: list[int] | None = None
    text_span: list[int] | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    guidance_scale_2: float | None = None
    pipeline: str | None = None
    adapters: list[str] | None = None

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        data = super().model_dump(**kwargs)
        for name in ("latent_size", "token_grid", "text_span", "adapters"):
            data[name] = None if data[name] is None else tuple(data[name])
        return data


class PlanFile(_Strict):
    """The JSON of a plan. The settings of each pass are checked by the pass itself."""

    format: str
    version: int
    name: str
    passes: list[dict[str, Any]]
    tensors: list[str] = []
    fingerprint: list[FingerprintFile] = []
    conditions: ConditionsFile = ConditionsFile()
    certificate: dict[str, Any] | None = None
    notes: list[str] = []

    @field_validator("fingerprint", mode="before")
    @classmethod
    def _as_list(cls, found: Any) -> Any:
        """One denoiser's stands by itself, as in version 1."""
        return [] if found is None else found if isinstance(found, list) else [found]

    @classmethod
    def checked(cls, data: Mapping[str, Any], where: str) -> "PlanFile":
        """Validate.

        Raises:
            ConfigError: Names every fault with its place, and the nearest known key for an unknown one.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ConfigError(f"{where}: " + "; ".join(_in_words(fault) for fault in error.errors())) from error


def _in_words(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        owners: dict[str, type[BaseModel]] = {"conditions": ConditionsFile, "fingerprint": FingerprintFile}
        owner = owners.get(str(fault["loc"][0]), PlanFile)
        return f"unknown key '{place}'.{did_you_mean(str(fault['loc'][-1]), owner.model_fields)}"
    if fault["type"] == "missing":
        return f"the key '{place}' is missing"
    return f"'{place}': {fault['msg']}"
