"""TeaCache: our pass, calibrated on each model, as its authors calibrate theirs."""

from typing import Any

from dit_accel import TeaCacheConfig, accelerate_pipeline, remove_acceleration
from dit_accel.calibration.teacache import fit_teacache
from dit_accel.families.targets import find_targets
from dit_accel.passes.base import obstacles_by_pass
from dit_accel.session.session import session_of
from rivals.base import Rival, Setting, Task

THRESHOLDS = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8)
ADVISED = 0.25


class TeaCache(Rival):
    """Skips all blocks while the predicted change of the output is small."""

    name = "TeaCache"
    method = "Liu et al., arXiv 2411.19108"
    made_by = "our implementation, calibrated by us"
    advice = "thresholds 0.25 to 0.8 on FLUX.1-dev (authors' README); 0.25, their mildest, taken as advice"

    def supports(self, pipe: Any) -> str | None:
        obstacles = obstacles_by_pass()[TeaCacheConfig.type_name]
        return next((reason for target in find_targets(pipe) for reason in obstacles(target)), None)

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        return tuple(
            Setting(
                name=f"TeaCache l={threshold}",
                rival=self.name,
                params={"threshold": threshold},
                advised=threshold == ADVISED,
            )
            for threshold in THRESHOLDS
        )

    def prepare(self, pipe: Any, task: Task) -> None:
        task.learned(self.name, lambda: self._fit(pipe, task))

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        self.prepare(pipe, task)
        coefficients = task.memory[self.name]["coefficients"]
        accelerate_pipeline(pipe, TeaCacheConfig(threshold=setting.params["threshold"], coefficients=coefficients))

    def detach(self, pipe: Any) -> None:
        if session_of(pipe) is not None:
            remove_acceleration(pipe)

    def _fit(self, pipe: Any, task: Task) -> dict[str, Any]:
        fitted = fit_teacache(pipe, task.calibrate)
        return {"coefficients": fitted.to_dict()["coefficients"], "r2": fitted.r2}
