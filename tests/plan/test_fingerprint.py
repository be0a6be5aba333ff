"""Whose work a folder holds is told the same in every process."""

import diffusers
from diffusers.configuration_utils import FrozenDict

from dit_accel.plan.fingerprint import digest, scheduler_digest


def test_a_scheduler_is_told_by_its_settings_in_any_order_of_sets() -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    told = scheduler_digest(scheduler)
    for names in (["eta", "steps"], ["steps", "eta"]):
        scheduler._internal_dict = FrozenDict({**scheduler.config, "_use_default_values": names})
        assert scheduler_digest(scheduler) == told
    assert scheduler_digest(diffusers.DDIMScheduler(clip_sample=True)) != told


def test_one_with_all_settings_in_its_file_is_told_as_ever() -> None:
    """Folders of embedded pipelines from before go on."""
    settings = {key: value for key, value in diffusers.DDIMScheduler().config.items() if not key.startswith("_")}
    scheduler = diffusers.DDIMScheduler(**settings)
    scheduler._internal_dict = FrozenDict({k: v for k, v in scheduler.config.items() if k != "_use_default_values"})
    assert scheduler_digest(scheduler) == digest({"DDIMScheduler": str(scheduler.config)})
