"""The whole decision as one immutable, versioned object: passes, the model they are for, and what was measured."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError, PlanMismatchError
from dit_accel.passes.base import PassConfig, config_from_dict

if TYPE_CHECKING:
    from dit_accel.session import Target

FORMAT = "dit-accel/plan"
VERSION = 1
PLAN_FILE = "dit_accel_plan.json"
TENSOR_FILE = "dit_accel_plan.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Which model a plan is for.

    Attributes:
        model_class: Class name of the denoiser.
        sites: Digest of its site ids: the same for finetunes, different for other depths.
        config: Digest of its diffusers config: differs for another resolution or channel count too.
    """

    model_class: str
    sites: str
    config: str

    def compare(self, found: "Fingerprint") -> list[str]:
        """Doubts about using a plan for this fingerprint on ``found``.

        Raises:
            PlanMismatchError: Other class, or other sites: the schedule cannot mean the same thing.
        """
        if self.model_class != found.model_class:
            raise PlanMismatchError(f"the plan is for a {self.model_class}, this model is a {found.model_class}")
        if self.sites != found.sites:
            raise PlanMismatchError(
                f"the plan is for another {self.model_class}: its blocks or modules differ from this model's"
            )
        if self.config != found.config:
            return [f"the plan was made for a {self.model_class} with another config; its measurements may not hold"]
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under which a plan was made; ``None`` means any.

    Attributes:
        num_steps: Denoiser evaluations per run.
        scheduler: Class name.
        latent_size: Spatial (and temporal) shape of the latents or the number of tokens, without batch and channels.
        guidance_scale: Classifier-free guidance scale.
    """

    num_steps: int | None = None
    scheduler: str | None = None
    latent_size: tuple[int, ...] | None = None
    guidance_scale: float | None = None

    def doubts(self, found: "Conditions") -> list[str]:
        """In words, what differs between these conditions and those of a run."""
        words = {
            "num_steps": "denoiser evaluations",
            "scheduler": "the scheduler",
            "latent_size": "the latent size",
            "guidance_scale": "the guidance scale",
        }
        differences = []
        for name, word in words.items():
            wanted, actual = getattr(self, name), getattr(found, name)
            if wanted is not None and actual is not None and wanted != actual:
                differences.append(f"{word}: {actual} instead of {wanted}")
        return differences


@dataclass(frozen=True, slots=True, kw_only=True)
class AccelerationPlan:
    """An ordered set of pass configs with the model and the conditions they are for.

    Args:
        passes: Pass configs; the planner puts them in order.
        name: For people and logs.
        fingerprint: The model; ``None`` for a plan made by rule, which fits any model that has the sites.
        conditions: The run it was made for.
        certificate: What was measured on held-out prompts; ``None``: uncertified.
        notes: One sentence each.
    """

    passes: tuple[PassConfig, ...] = ()
    name: str = "custom"
    fingerprint: Fingerprint | None = None
    conditions: Conditions = field(default_factory=Conditions)
    certificate: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_certified(self) -> bool:
        """Whether the plan carries a certificate."""
        return self.certificate is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, without tensors."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "passes": [config.to_dict() for config in self.passes],
            "tensors": sorted(self._tensors()),
            "fingerprint": None if self.fingerprint is None else asdict(self.fingerprint),
            "conditions": asdict(self.conditions),
            "certificate": None if self.certificate is None else dict(self.certificate),
            "notes": list(self.notes),
        }

    def _tensors(self) -> dict[str, Any]:
        return {f"{c.type_name}/{name}": tensor for c in self.passes for name, tensor in c.tensors().items()}

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the plan as JSON, and its tensors, if any, as safetensors beside it; returns the JSON's path."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        if tensors:
            save_file(tensors, folder / TENSOR_FILE)
        else:
            (folder / TENSOR_FILE).unlink(missing_ok=True)
        path = folder / PLAN_FILE
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> "AccelerationPlan":
        """Read a plan from a folder, a JSON file, or a repository on the Hugging Face Hub.

        Raises:
            ConfigError: Nothing is there, the file is truncated or not a plan, or a key or value is not valid.
        """
        path = _locate(source, revision)
        tensors = _read_tensors(path.with_name(TENSOR_FILE))
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"'{path}' is not valid JSON ({error}); the file may be truncated") from error
        return plan_from_dict(data, tensors, where=str(path))

    def push_to_hub(self, repo_id: str, **upload_kwargs: Any) -> str:
        """Upload the plan to a model repository on the Hugging Face Hub, creating it if need be; returns its URL.

        Args:
            repo_id: ``"user/name"``.
            upload_kwargs: Passed on to ``huggingface_hub.upload_folder`` (``token``, ``commit_message``, ...).
        """
        import tempfile

        import huggingface_hub

        token = upload_kwargs.get("token")
        huggingface_hub.create_repo(repo_id, exist_ok=True, token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(huggingface_hub.upload_folder(repo_id=repo_id, folder_path=folder, **upload_kwargs))


def plan_from_dict(data: Any, tensors: Mapping[str, Any], *, where: str = "plan") -> AccelerationPlan:
    """Check outside data and build a plan from it.

    Raises:
        ConfigError: With the place and the reason, for anything that is not a valid plan.
    """
    from dit_accel.plan_file import PlanFile

    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ConfigError(f"{where} is not a dit-accel plan: its 'format' is not '{FORMAT}'")
    file = PlanFile.checked(data, where)
    if file.version > VERSION:
        raise ConfigError(f"{where} has plan version {file.version}, this dit-accel reads {VERSION}: update dit-accel")
    lost = sorted(set(file.tensors) - set(tensors))
    if lost:
        raise ConfigError(
            f"{where}: {len(lost)} tensors of this plan are missing, e.g. '{lost[0]}'; they belong into {TENSOR_FILE}"
        )
    passes = []
    for entry in file.passes:
        prefix = f"{entry.get('type')}/"
        own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        try:
            passes.append(config_from_dict(entry, own))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    return AccelerationPlan(
        passes=tuple(passes),
        name=file.name,
        fingerprint=None if file.fingerprint is None else Fingerprint(**file.fingerprint.model_dump()),
        conditions=Conditions(**file.conditions.model_dump()),
        certificate=file.certificate,
        notes=tuple(file.notes),
    )


def fingerprint(target: "Target") -> Fingerprint:
    """The fingerprint of a live denoiser."""
    config = getattr(target.denoiser, "config", {})
    public = {key: value for key, value in dict(config).items() if not key.startswith("_")}
    return Fingerprint(
        model_class=type(target.denoiser).__name__,
        sites=_digest(sorted(site.id for site in target.layout.graph)),
        config=_digest(public),
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _locate(source: str | Path, revision: str | None) -> Path:
    path = Path(source)
    if path.is_dir():
        path = path / PLAN_FILE
    if path.is_file():
        return path
    if path.exists() or path.suffix == ".json" or str(source).count("/") != 1 or Path(source).parent.is_dir():
        raise ConfigError(f"no plan at '{source}': expected a folder with {PLAN_FILE}, that file, or a hub id")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        plan = Path(hf_hub_download(str(source), PLAN_FILE, revision=revision))
    except Exception as error:
        raise ConfigError(f"no plan at '{source}': not a local path, and the hub said: {error}") from error
    with contextlib.suppress(EntryNotFoundError):  # most plans have no tensors
        hf_hub_download(str(source), TENSOR_FILE, revision=revision)
    return plan


def _read_tensors(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"'{path}' cannot be read ({error}); the file may be truncated") from error
    return tensors
