"""The whole decision as one immutable, versioned object: passes, the model they are for, and what was measured."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.config import PassConfig, config_from_dict
from dit_accel.plan.fingerprint import Fingerprint, digest

if TYPE_CHECKING:
    from dit_accel.plan.certificate import Certificate

FORMAT = "dit-accel/plan"
VERSION = 2  # of version 1, which is read, a plan is for the first denoiser of a pipeline alone
PLAN_FILE = "dit_accel_plan.json"
TENSOR_FILE = "dit_accel_plan.safetensors"
NOT_CERTIFIED = "not certified"  # every note that says so goes when a plan is certified


@dataclass(frozen=True, slots=True, kw_only=True)
class AccelerationPlan:
    """An ordered set of pass configs with the model and the conditions they are for.

    Args:
        passes: Pass configs; the planner puts them in order.
        name: For people and logs.
        fingerprints: The models, one for each denoiser of a pipeline, in the order in which it uses them; empty for a
            plan that fits any model that has the sites.
        conditions: The run it was made for.
        certificate: What was measured on held-out prompts; ``None``: uncertified.
        notes: One sentence each.
    """

    passes: tuple[PassConfig, ...] = ()
    name: str = "custom"
    fingerprints: tuple[Fingerprint, ...] = ()
    conditions: Conditions = field(default_factory=Conditions)
    certificate: "Certificate | None" = None
    notes: tuple[str, ...] = ()

    @property
    def is_certified(self) -> bool:
        """Whether the plan carries a certificate, and one of this very plan."""
        return self.certificate is not None and self.certificate_fault is None

    @property
    def certificate_fault(self) -> str | None:
        """Why the certificate that the plan carries certifies nothing; ``None``: it does, or there is none."""
        if self.certificate is None:
            return None
        return self.certificate.fault(self.content_sha256(), self.fingerprints)

    def uncovered(self, found: Conditions) -> tuple[str, ...]:
        """In words, where a run differs from what the certificate covers.

        Nothing without a certificate, and nothing for a plan that is bit-equal by construction: a certificate adds to
        that what it saves, not where it holds.
        """
        if self.certificate is None or all(config.is_lossless for config in self.passes):
            return ()
        return tuple(self.certificate.conditions.doubts(found))

    def doubts(self, found: Conditions) -> list[str]:
        """What to warn of at the start of a run: it differs from what the plan was made for or certified for."""
        doubts = [
            f"this run differs from what plan '{self.name}' was made for: {doubt}"
            for doubt in self.conditions.doubts(found)
        ]
        gaps = self.uncovered(found)
        if gaps:
            doubts.append(f"the certificate of plan '{self.name}' does not cover this run: {'; '.join(gaps)}")
        return doubts

    def content_sha256(self) -> str:
        """Digest of what the plan does: passes, tensors, model and conditions; not its name, notes or certificate."""
        data = self.to_dict()
        conditions = {key: value for key, value in data["conditions"].items() if value is not None}
        tensors = {name: _tensor_sha256(tensor) for name, tensor in self._tensors().items()}
        return digest(
            {
                "passes": data["passes"],
                "tensors": tensors,
                "fingerprint": data["fingerprint"],
                "conditions": conditions,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, without tensors."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "passes": [config.to_dict() for config in self.passes],
            "tensors": sorted(self._tensors()),
            "fingerprint": _plain_fingerprints(self.fingerprints),
            "conditions": asdict(self.conditions),
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
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
        plan = plan_from_dict(data, tensors, where=str(path))
        if plan.certificate is None:
            return plan
        from dit_accel.plan.bounds import with_bounds

        return replace(plan, certificate=with_bounds(plan.certificate, path.parent))

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
    from dit_accel.plan.certificate import Certificate
    from dit_accel.plan.file import PlanFile

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
        fingerprints=tuple(Fingerprint(**one.model_dump()) for one in file.fingerprint),
        conditions=Conditions(**file.conditions.model_dump()),
        certificate=None if file.certificate is None else Certificate.checked(file.certificate, where),
        notes=tuple(file.notes),
    )


def _plain_fingerprints(fingerprints: tuple[Fingerprint, ...]) -> Any:
    """As version 1 wrote it where there is at most one, so that the digest of what a plan does stays the same."""
    plain = [asdict(one) for one in fingerprints]
    return None if not plain else plain[0] if len(plain) == 1 else plain


def _tensor_sha256(tensor: Any) -> str:
    import hashlib

    import torch

    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype} {list(plain.shape)} ".encode()
    return hashlib.sha256(head + plain.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


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
