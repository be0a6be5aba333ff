"""Finds out of each chunk of pictures what can be found out; what is known already is not computed again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.alignment import Judge
from dit_accel.evaluation.metrics.features import extract_features
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.motion import motion_score
from dit_accel.evaluation.metrics.networks import LoadedNetwork
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.metrics.temporal import motion_right, temporal_flickering
from dit_accel.evaluation.suites.draw import Painter
from dit_accel.evaluation.suites.image_files import AS_IT_IS, DamagedImage, Preparation, read_image, to_tensor
from dit_accel.evaluation.suites.job import ImageSource, SuiteJob, key_of
from dit_accel.evaluation.suites.prompt_files import Item

if TYPE_CHECKING:
    import torch

    Features = tuple[torch.Tensor, dict[str, Any]]

DAMAGED, REDRAWN, FIDELITY, VIDEO = "damaged", "redrawn", "fidelity", "video"
REFERENCE = "reference"
REFERENCE_CHUNK = 64
JUDGED_FRAMES = 8  # of a video, from the first to the last
SCORES = "scores"
MOTION, FLICKERING, CONSISTENCY = "motion_right", "temporal_flickering", "frame_consistency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Scores chunks of one evaluation.

    Attributes:
        job: Its folder.
        chunks: All items, batch by batch.
        painters: Of the variants that are drawn here.
        network: For distances or frame consistency; ``None``: neither.
        preparation: Of images before the network.
        judges: Of alignment.
    """

    job: SuiteJob
    chunks: Sequence[Sequence[Item]]
    painters: Mapping[str, Painter] = field(default_factory=dict)
    network: LoadedNetwork | None = None
    preparation: Preparation = AS_IT_IS
    judges: Sequence[Judge] = ()

    def left_out(self, sources: Sequence[ImageSource], number: int) -> dict[str, str]:
        """Items of a chunk that some variant lacks, with the reason; all variants go without them."""
        found: dict[str, str] = {}
        for source in sources:
            if not source.ours:
                known = self.job.note(source.name, DAMAGED, number)
                looked_at = [item for item in self.chunks[number] if known is None or item.name in known]
                note = {item.name: why for item in looked_at if (why := source.fault(item))}
                if note != known:
                    self.job.keep_note(source.name, DAMAGED, number, note)
                found |= note
        return {item.name: found[item.name] for item in self.chunks[number] if item.name in found}

    def quality(self, source: ImageSource, number: int, items: Sequence[Item]) -> None:
        """Features, alignment, and what can be said of videos."""
        if not items:
            return
        if self.network is not None and not source.video:
            self._image_features(source, number, items)
        for judge in self.judges:
            known = judgeable(judge, items)
            if self.values(source, judge_key(judge), number, known) is None:
                read = self._read(source, number, known)
                scores = [self._judged(judge, images, item) for images, item in zip(read, known, strict=True)]
                self._keep(source, judge_key(judge), number, known, {SCORES: scores})
        if source.video and self.values(source, self.video_key, number, items) is None:
            self._keep(source, self.video_key, number, items, self._video(source, number, items))

    def fidelity(self, source: ImageSource, plain: ImageSource, number: int, items: Sequence[Item]) -> None:
        """Closeness to the plain run's pictures."""
        key = fidelity_key()
        if not items or self.values(source, key, number, items) is not None:
            return
        pair = []
        for each in (source, plain):
            self._read(each, number, items)  # draws again what is damaged
            try:
                pair.append(each.tensor(items))
            except DamagedImage as error:
                raise ConfigError(
                    f"pictures of '{each.name}' cannot be compared with the plain ones: {error}"
                ) from error
        scores = fidelity(pair[0], pair[1], perceptual=available_perceptual())
        values = {name: list(value) for name, value in asdict(scores).items() if value is not None}
        self._keep(source, key, number, items, values)

    def reference(self, files: Sequence[Path], folder: Path, number: int) -> None:
        """Features of a chunk of real images."""
        import torch

        if self.network is None or self.known_reference(files, folder, number) is not None:
            return
        features, names, damaged = [], [], {}
        for path in _reference_chunk(files, number):
            name = path.relative_to(folder).as_posix()
            try:
                features.append(self._features([read_image(path)]))
                names.append(name)
            except DamagedImage as error:
                damaged[name] = str(error)
        empty = torch.zeros(0, self.network.facts.dim)
        facts = {"names": names, "damaged": damaged}
        self.job.keep_features(REFERENCE, self.reference_key(folder), number, torch.cat([empty, *features]), facts)

    def known_reference(self, files: Sequence[Path], folder: Path, number: int) -> "Features | None":
        """Features of real images and their names, if they are there and of these files."""
        found = self.job.features(REFERENCE, self.reference_key(folder), number)
        wanted = {path.relative_to(folder).as_posix() for path in _reference_chunk(files, number)}
        return found if found is not None and {*found[1]["names"], *found[1]["damaged"]} == wanted else None

    def values(
        self, source: ImageSource, kind: str, number: int, items: Sequence[Item]
    ) -> dict[str, list[float]] | None:
        """What was kept of exactly these items."""
        note = self.job.note(source.name, kind, number)
        if note is None or note.get("names") != [item.name for item in items]:
            return None
        values: dict[str, list[float]] = note["values"]
        return values

    @property
    def network_key(self) -> str:
        """Folder of its features."""
        assert self.network is not None
        return key_of(self.network.facts.name, self.network.weights_sha256, self.preparation)

    def reference_key(self, folder: Path) -> str:
        """Folder of real images' features."""
        return key_of(self.network_key, folder.resolve())

    @property
    def video_key(self) -> str:
        """Folder of what is said of videos."""
        return VIDEO if self.network is None else f"{VIDEO}-{self.network_key}"

    def features(self, source: ImageSource, number: int, items: Sequence[Item]) -> "torch.Tensor | None":
        """Features of exactly these images, if they are there."""
        found = self.job.features(source.name, self.network_key, number)
        return found[0] if found is not None and found[1].get("names") == [item.name for item in items] else None

    def _image_features(self, source: ImageSource, number: int, items: Sequence[Item]) -> None:
        import torch

        if self.features(source, number, items) is None:
            features = torch.cat([self._features(images) for images in self._read(source, number, items)])
            facts = {"names": [item.name for item in items]}
            self.job.keep_features(source.name, self.network_key, number, features, facts)

    def _features(self, images: Sequence[Image.Image]) -> "torch.Tensor":
        assert self.network is not None
        return extract_features(self.network.module, to_tensor([self.preparation.apply(i) for i in images]) * 2 - 1)

    def _judged(self, judge: Judge, images: Sequence[Image.Image], item: Item) -> float:
        count = min(JUDGED_FRAMES, len(images))
        chosen = [images[round(k * (len(images) - 1) / max(1, count - 1))] for k in range(count)]
        scores = judge.scores(to_tensor(chosen), [item.prompt] * count)
        return sum(scores) / count

    def _video(self, source: ImageSource, number: int, items: Sequence[Item]) -> dict[str, list[float]]:
        read = self._read(source, number, items)
        videos = [to_tensor(images)[None] for images in read]
        values = {FLICKERING: [temporal_flickering(video)[0] for video in videos]}
        motions = [item.motion for item in items if item.motion is not None]
        if len(motions) == len(items):
            pairs = zip(videos, motions, strict=True)
            values[MOTION] = [motion_right(video, [motion], motion_score)[0] for video, motion in pairs]
        if self.network is not None:
            values[CONSISTENCY] = [frame_consistency(self._features(images)) for images in read]
        return values

    def _keep(
        self, source: ImageSource, kind: str, number: int, items: Sequence[Item], values: Mapping[str, Sequence[float]]
    ) -> None:
        self.job.keep_note(source.name, kind, number, {"names": [item.name for item in items], "values": dict(values)})

    def _read(self, source: ImageSource, number: int, items: Sequence[Item]) -> list[list[Image.Image]]:
        """Pictures; our own that are damaged are drawn anew."""
        try:
            return [source.read(item) for item in items]
        except DamagedImage as error:
            painter = self.painters.get(source.name)
            if painter is None:
                raise ConfigError(
                    f"a picture of '{source.name}' could be read before and cannot now: {error}"
                ) from error
        known = (self.job.note(source.name, REDRAWN, number) or {}).get("names", [])
        self.job.keep_note(source.name, REDRAWN, number, {"names": [*known, *painter.repair(number)]})
        return [source.read(item) for item in items]


def frame_consistency(features: "torch.Tensor") -> float:
    """How alike the frames of a video are (VBench, Huang et al. 2024, "subject consistency").

    The mean over all frames but the first of half the cosine to the first frame and half that to the one before.
    VBench takes DINO's features; whatever others are taken has to be said.

    Args:
        features: Of the frames, [F, D], at least two.
    """
    import torch.nn.functional as F

    unit = F.normalize(features.double(), dim=1)
    first, before = (unit[1:] * unit[:1]).sum(dim=1), (unit[1:] * unit[:-1]).sum(dim=1)
    return float(((first + before) / 2).mean())


def judgeable(judge: Judge, items: Sequence[Item]) -> list[Item]:
    """Those whose captions mean something to the judge."""
    unknown = {*judge.unknown([item.prompt for item in items])}
    return [item for item in items if item.prompt not in unknown]


def judge_key(judge: Judge) -> str:
    """Folder of its scores."""
    return key_of(judge.name.replace(" ", "-"), judge.model)


def fidelity_key() -> str:
    """Folder of closeness to the plain run; it depends on which perceptual distances are at hand."""
    return key_of(FIDELITY, *available_perceptual())


def num_reference_chunks(files: Sequence[Path]) -> int:
    """How many chunks real images come in."""
    return -(-len(files) // REFERENCE_CHUNK)


def _reference_chunk(files: Sequence[Path], number: int) -> Sequence[Path]:
    return files[number * REFERENCE_CHUNK : (number + 1) * REFERENCE_CHUNK]
