"""Plans as files: save, load, share; corrections; and that presets resolve to plans."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_certificates import certified, sample_certificate
from tiny import TINY_PIPELINE_NAMES, tiny_call, tiny_pipeline

from dit_accel import AccelerationPlan, GeneratorSpec, Schedule, StaticCacheConfig, accelerate_pipeline, summary
from dit_accel.errors import ConfigError
from dit_accel.families.targets import find_targets
from dit_accel.passes.compile import CompileConfig
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.fingerprint import Fingerprint, fingerprint
from dit_accel.plan.plan import PLAN_FILE, TENSOR_FILE
from dit_accel.session.presets import PRESETS, resolve_preset, shipped_plan

STEPS = 8


def _schedules() -> st.SearchStrategy[Schedule]:
    row = st.lists(st.booleans(), min_size=5, max_size=5)
    return st.builds(Schedule, st.just(5), st.dictionaries(st.sampled_from(["blocks.0.ff", "a.1", "b"]), row))


_SPECS = st.one_of(
    st.builds(lambda n: GeneratorSpec("every_n", n=n), st.integers(1, 9)),
    st.builds(lambda k: GeneratorSpec("custom", reuse={"blocks.*.ff": k}), st.lists(st.integers(1, 9))),
    st.builds(lambda k: GeneratorSpec("encoder_propagation", key_steps=k), st.lists(st.integers(0, 9))),
)
_PLANS = st.builds(
    AccelerationPlan,
    passes=st.tuples(st.builds(StaticCacheConfig, schedule=st.one_of(_schedules(), _SPECS), invariants=st.booleans())),
    name=st.text(min_size=1, max_size=20),
    fingerprints=st.lists(
        st.builds(Fingerprint, model_class=st.just("X"), sites=st.text(), config=st.text()), max_size=2
    ).map(tuple),
    conditions=st.builds(
        Conditions,
        num_steps=st.none() | st.integers(1, 50),
        scheduler=st.none() | st.text(),
        latent_size=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
        guidance_scale=st.none() | st.floats(0, 20),
    ),
    certificate=st.none() | st.just(sample_certificate()),
    notes=st.lists(st.text(), max_size=2).map(tuple),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_PLANS)
def test_round_trip(tmp_path: Path, plan: AccelerationPlan) -> None:
    path = plan.save_pretrained(tmp_path)
    assert path == tmp_path / PLAN_FILE
    for source in (tmp_path, path, str(tmp_path)):
        again = AccelerationPlan.from_pretrained(source)
        assert again == plan
        assert again.to_dict() == plan.to_dict()
    assert not (tmp_path / TENSOR_FILE).exists()
    assert {p.name for p in tmp_path.iterdir()} == {PLAN_FILE}, "JSON only, never a pickle"


def _corrections(num_steps: int = STEPS, channels: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        f"blocks.{i}.ff.{part}": torch.randn(num_steps, channels, generator=generator)
        for i in range(2)
        for part in ("scale", "shift")
    }


def test_round_trip_with_tensors_and_several_passes(tmp_path: Path) -> None:
    schedule = Schedule(STEPS, {f"blocks.{i}.ff": "10" * (STEPS // 2) for i in range(3)})
    cache = StaticCacheConfig(schedule=schedule, corrections=_corrections())
    plan = AccelerationPlan(name="two", passes=(cache, CompileConfig(mode="max-autotune-no-cudagraphs")))
    plan.save_pretrained(tmp_path / "deep" / "er")
    again = AccelerationPlan.from_pretrained(tmp_path / "deep" / "er")
    assert again.to_dict() == plan.to_dict()
    loaded = again.passes[0]
    assert isinstance(loaded, StaticCacheConfig)
    assert loaded.corrections.keys() == cache.corrections.keys()
    for name, table in cache.corrections.items():
        assert torch.equal(loaded.corrections[name], table)
    # Saving a plan without tensors over one with tensors leaves none behind.
    dataclasses.replace(plan, passes=(CompileConfig(),)).save_pretrained(tmp_path / "deep" / "er")
    assert not (tmp_path / "deep" / "er" / TENSOR_FILE).exists()


def test_a_plan_is_immutable() -> None:
    plan = AccelerationPlan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.name = "other"  # type: ignore[misc]
    assert not plan.is_certified


def test_saved_and_loaded_gives_the_same_pictures(tmp_path: Path) -> None:
    schedule = Schedule(STEPS, {f"blocks.{i}.ff": "10" * (STEPS // 2) for i in range(3)})
    plan = AccelerationPlan(passes=(StaticCacheConfig(schedule=schedule, corrections=_corrections()),))
    plan.save_pretrained(tmp_path)
    call = {"num_inference_steps": STEPS}
    one = accelerate_pipeline(tiny_pipeline("pixart"), plan)(**tiny_call("pixart", **call))[0]
    for source in (tmp_path, str(tmp_path), tmp_path / PLAN_FILE):
        other = accelerate_pipeline(tiny_pipeline("pixart"), source)(**tiny_call("pixart", **call))[0]
        assert torch.equal(one, other)


@pytest.mark.parametrize("site", ["blocks.1.ff", "blocks.0.attn1"])
def test_corrections_are_applied_to_reused_outputs_only(site: str) -> None:
    """A planted per-channel affine map comes out exactly, step by step."""
    channels = 16
    generator = torch.Generator().manual_seed(3)
    scale, shift = (torch.randn(STEPS, channels, generator=generator) for _ in range(2))
    pipe = tiny_pipeline("pixart")
    seen: list[torch.Tensor] = []
    module = pipe.transformer.get_submodule(site.replace("blocks", "transformer_blocks"))
    module.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    schedule = Schedule(STEPS, {site: "10001000"})
    plan = StaticCacheConfig(schedule=schedule, corrections={f"{site}.scale": scale, f"{site}.shift": shift})
    accelerate_pipeline(pipe, plan)
    pipe(**tiny_call("pixart", num_inference_steps=STEPS))
    for step in range(STEPS):
        kept = seen[step // 4 * 4]
        expected = kept if step % 4 == 0 else kept * scale[step] + shift[step]
        assert torch.equal(seen[step], expected), step


@pytest.mark.parametrize("site", ["up_blocks.1.resnets.0", "mid_block", "up_blocks.1", "conv_in"])
def test_corrections_of_images_are_per_channel(site: str) -> None:
    pipe = tiny_pipeline("sd")
    seen: list[torch.Tensor] = []
    pipe.unet.get_submodule(site).register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    pipe(**tiny_call("sd", num_inference_steps=1))
    channels = seen.pop().shape[1]
    scale, shift = torch.full((4, channels), 2.0), torch.arange(channels).float().repeat(4, 1)
    plan = StaticCacheConfig(
        schedule=Schedule(4, {site: "1010"}), corrections={f"{site}.scale": scale, f"{site}.shift": shift}
    )
    accelerate_pipeline(pipe, plan)
    pipe(**tiny_call("sd", num_inference_steps=4))
    assert torch.equal(seen[1], seen[0] * 2.0 + torch.arange(channels).float().view(-1, 1, 1))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that is a folder."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    def download(repo_id: str, filename: str, *, revision: str | None = None, **more: Any) -> str:
        path = tmp_path / repo_id / (revision or "main") / filename
        if not path.is_file():
            raise EntryNotFoundError(f"{filename} is not in {repo_id}")
        return str(path)

    def upload(*, repo_id: str, folder_path: str, **more: Any) -> str:
        target = tmp_path / repo_id / "main"
        target.mkdir(parents=True, exist_ok=True)
        for file in Path(folder_path).iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        return f"https://hub/{repo_id}?{sorted(more)}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    monkeypatch.setattr(
        huggingface_hub, "create_repo", lambda repo_id, **more: (tmp_path / repo_id).mkdir(parents=True)
    )
    return tmp_path


@pytest.mark.parametrize("with_tensors", [False, True])
def test_push_to_and_load_from_the_hub(hub: Path, with_tensors: bool) -> None:
    schedule = Schedule(STEPS, {f"blocks.{i}.ff": "10" * (STEPS // 2) for i in range(3)})
    corrections = _corrections() if with_tensors else {}
    plan = AccelerationPlan(name="shared", passes=(StaticCacheConfig(schedule=schedule, corrections=corrections),))
    assert plan.push_to_hub("me/plan", token="secret", commit_message="first").startswith("https://hub/me/plan")
    again = AccelerationPlan.from_pretrained("me/plan")
    assert again.to_dict() == plan.to_dict()
    assert again.passes[0].tensors().keys() == corrections.keys()
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), "me/plan")
    assert summary(pipe).plan == "shared"
    with pytest.raises(ConfigError, match="no plan at 'me/plan': not a local path, and the hub said"):
        AccelerationPlan.from_pretrained("me/plan", revision="v2")
    with pytest.raises(ConfigError, match="no plan at 'me/other'"):
        accelerate_pipeline(pipe, "me/other")
    assert summary(pipe).plan == "shared"


@pytest.mark.parametrize("preset", [name for name in PRESETS if not PRESETS.get(name).paper])
@pytest.mark.parametrize("name", TINY_PIPELINE_NAMES)
def test_presets_scale_to_every_family_and_save(name: str, preset: str, tmp_path: Path) -> None:
    target = find_targets(tiny_pipeline(name))[0]
    plan = resolve_preset(preset, (target,))
    assert shipped_plan(preset, (target,)) is None, "nothing ships for random models"
    assert not plan.is_certified
    assert plan.name == preset
    assert plan.fingerprints == (fingerprint(target),)
    assert ("not certified" in plan.notes[0]) == (preset != "lossless")
    plan.save_pretrained(tmp_path)
    assert AccelerationPlan.from_pretrained(tmp_path) == plan


def test_a_shipped_plan_comes_first_for_its_model_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, other = (find_targets(tiny_pipeline(name))[0] for name in ("pixart", "flux"))
    found = StaticCacheConfig(schedule=Schedule(20, {"blocks.0.ff": "10" * 10}))
    shipped = certified(AccelerationPlan(name="fast", passes=(found,), fingerprints=(fingerprint(target),)))
    folder = tmp_path / "plans" / "tiny-pixart" / "fast"
    shipped.save_pretrained(folder)
    (folder / "report.json").write_text("{}")  # the report of the certificate lies beside it
    monkeypatch.setattr("dit_accel.session.presets.resources.files", lambda package: tmp_path)
    (tmp_path / "plans" / "tiny-pixart" / "turbo").mkdir()
    (tmp_path / "plans" / "tiny-pixart" / "turbo" / PLAN_FILE).write_text("of another preset, and not read")
    assert resolve_preset("fast", (target,)) == shipped and shipped.is_certified
    assert not resolve_preset("balanced", (target,)).is_certified
    assert not resolve_preset("fast", (other,)).is_certified


def test_presets_reuse_more_and_more() -> None:
    for name in ("pixart", "sd", "flux"):
        reused = []
        for preset in ("lossless", "balanced", "fast", "turbo"):
            pipe = accelerate_pipeline(tiny_pipeline(name), preset)
            pipe(**tiny_call(name, num_inference_steps=10))
            stats = summary(pipe).denoisers[0].last_run
            reused.append(stats.actual_computed if preset != "lossless" else sys.maxsize)
        assert reused == sorted(reused, reverse=True) and len(set(reused)) == 4, name


def test_fingerprints_tell_models_apart() -> None:
    names = [name for name in TINY_PIPELINE_NAMES if not name.startswith("wan22")]  # one class and config with wan
    found = {name: fingerprint(find_targets(tiny_pipeline(name))[0]) for name in names}
    assert len(set(found.values())) == len(found)
    assert found["pixart"] == fingerprint(find_targets(tiny_pipeline("pixart"))[0])
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), "fast")
    assert fingerprint(find_targets(pipe)[0]) == found["pixart"], "acceleration does not change it"


def test_the_file_is_plain_and_versioned(tmp_path: Path) -> None:
    plan = AccelerationPlan(passes=(StaticCacheConfig(schedule=GeneratorSpec("every_n", n=3)),))
    data = json.loads(plan.save_pretrained(tmp_path).read_text())
    assert (data["format"], data["version"]) == ("dit-accel/plan", 2)
    assert data["passes"] == [
        {
            "type": "static_cache",
            "version": 1,
            "schedule": {"generator": "every_n", "params": {"n": 3}},
            "invariants": True,
        }
    ]
