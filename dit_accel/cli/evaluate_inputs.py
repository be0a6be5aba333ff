"""Turns what ``evaluate`` was given on the command line into plans, prompts, networks and judges."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.evaluation.metrics.alignment import Judge
    from dit_accel.evaluation.metrics.networks import LoadedNetwork
    from dit_accel.evaluation.suites.prompt_files import PromptSet
    from dit_accel.evaluation.suites.protocols import Suite


def plans_of(preset: Sequence[str] | None, plan: Sequence[str] | None, suite: "Suite") -> dict[str, Any]:
    """Variant name to a plan; plain first where it is wanted."""
    from dit_accel.cli.generate import NO_PRESET, as_path, chosen_plan

    found: dict[str, Any] = {}
    for each in preset or ():
        name = chosen_plan(each, None)
        found["plain" if name is None else name] = name
    for each in plan or ():
        found[Path(each).stem] = as_path(str(chosen_plan(None, each)))
    if not found or suite.fidelity:
        found.setdefault("plain", None)
    if suite.fidelity and len(found) < 2:
        raise ConfigError(f"say what to compare with the plain run: --preset NAME or --plan FOLDER (not {NO_PRESET})")
    return {name: found[name] for name in sorted(found, key=lambda name: name != "plain")}


def named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    path = Path(folder if equals else text)
    if not path.is_dir():
        raise ConfigError(f"no folder of images at '{path}'")
    return (name if equals else path.resolve().name), path


def model_name(model: str | None, folders: dict[str, Path]) -> str:
    if model is None:
        return f"images of {', '.join(folders)}"
    from dit_accel.pipelines.loading import name_of_model

    return name_of_model(model)


def _is_embedded(model: str | None) -> bool:
    from dit_accel.embedded import list_embedded

    return model in list_embedded()


def kind_of(model: str | None, suite: "Suite") -> str:
    """What is made, as far as it is known before the pipeline is loaded: only ``fidelity`` takes both."""
    return "video" if suite.kind == "video" or (suite.fidelity and model == "emoji-wan") else "image"


def prompts_of(path: Path | None, model: str | None, suite: "Suite", kind: str) -> "PromptSet":
    from dit_accel.evaluation.suites.prompt_files import read_prompts, shipped_prompts

    if path is not None:
        return read_prompts(path)
    if not _is_embedded(model) and not suite.fidelity:
        raise ConfigError(f"'{suite.name}' needs its prompts: {suite.files}")
    return shipped_prompts(kind)


class Needed:
    """Loads networks and judges: what the user asks for, else what the evaluation takes, else what works offline."""

    def __init__(
        self,
        suite: "Suite",
        model: str | None,
        weights: Path,
        device: str,
        *,
        download: bool,
        say: Callable[..., None],
    ) -> None:
        self.suite, self.weights, self.device, self.download, self.say = suite, weights, device, download, say
        self.offline = _is_embedded(model)

    def network(self, asked: str | None) -> "LoadedNetwork | None":
        from dit_accel.evaluation.suites import protocols
        from dit_accel.evaluation.suites.judges import load_feature_network

        name = asked or self.suite.network
        if asked is None and self.offline and name == protocols.INCEPTION:
            name = protocols.EFFNET
            self.say(f"feature network: {name}, since emoji are drawn; its distances are no FID (--network to change)")
        if name == protocols.NONE or not (self.suite.distances or self.suite.kind == "video"):
            return None
        return load_feature_network(name, self.weights, device=self.device, download=self.download)

    def judges(self, asked: Sequence[str] | None) -> "tuple[Judge, ...]":
        from dit_accel.evaluation.suites import protocols
        from dit_accel.evaluation.suites.judges import load_judge

        names: Sequence[str] = asked or self.suite.judges
        if not asked and self.offline and names:
            names = (protocols.TWO_TOWER,)
            self.say(f"judge: {names[0]}, since emoji are drawn; it is no CLIP score (--judge to change)")
        wanted = [name for name in dict.fromkeys(names) if name != protocols.NONE]
        return tuple(load_judge(name, self.weights, device=self.device, download=self.download) for name in wanted)
