"""What a search for a quantisation plan keeps on disk, so that it can be stopped and gone on with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dit_accel.calibration.quant_fit import LayerFit
from dit_accel.calibration.quant_flat import Affine
from dit_accel.calibration.quant_gram import Gram, Place
from dit_accel.evaluation.progress_files import claim, read_json, write_json, write_whole
from dit_accel.passes.quantize.config import WEIGHT
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.weights import QuantWeight

CLAIM, FITS, GRAM, CONTENT, JUDGED = "quantise.json", "fits", "gram", "content.json", "judged.json"
ERRORS = "errors.safetensors"  # what a matrix is made of, until it is
WHAT = "an unfinished search for a quantisation plan"


class QuantJob:
    """The folder of one search.

    Args:
        folder: Its own.
        identity: Everything that its numbers depend on.

    Raises:
        ConfigError: The folder holds the work of something else.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        claim(folder / CLAIM, identity, WHAT)

    def fits(self) -> dict[Place, LayerFit]:
        """The layers that are fitted already."""
        listed = read_json(self.folder / f"{FITS}.json") or {}
        found: dict[Place, LayerFit] = {}
        tensors = _read(self.folder / f"{FITS}.safetensors")
        for key, said in listed.items():
            own = {name.rpartition(".")[2]: each for name, each in tensors.items() if name.rpartition(".")[0] == key}
            if "values" not in own:
                return {}  # written in part: made anew
            scheme = QuantScheme.parse(said["scheme"])
            found[_place(key)] = LayerFit(
                scheme=scheme,
                alpha=said["alpha"],
                weight=QuantWeight(
                    **{what: own.get(what) for what in WEIGHT},  # type: ignore[arg-type]
                    in_features=said["in_features"],
                    group=said["group"],
                ),
                inverse_smooth=own.get("inverse_smooth"),
                affine=Affine(own["left"], own["right"]) if "left" in own else None,
                act_scale=own.get("act_scale"),
                gain=own.get("gain"),
                bias=own.get("bias"),
                errors=said["errors"],
            )
        return found

    def keep_fits(self, fits: Mapping[Place, LayerFit]) -> None:
        """Write all that are fitted so far."""
        tensors: dict[str, torch.Tensor] = {}
        listed = {}
        for (layer, width), fit in fits.items():
            key = f"{layer} {width}"
            tensors |= fit.stored(key)
            listed[key] = {
                "scheme": str(fit.scheme),
                "alpha": fit.alpha,
                "errors": fit.errors,
                "in_features": fit.weight.in_features,
                "group": fit.weight.group,
            }
        _write(self.folder / f"{FITS}.safetensors", tensors)
        write_json(self.folder / f"{FITS}.json", listed)

    def gram(self) -> Gram | None:
        """The matrix, if it is made."""
        listed = read_json(self.folder / f"{GRAM}.json")
        tensors = _read(self.folder / f"{GRAM}.safetensors")
        if listed is None or "products" not in tensors:
            return None
        return Gram(places=tuple((str(a), str(b)) for a, b in listed["places"]), products=tensors["products"])

    def keep_gram(self, gram: Gram) -> None:
        """Write the matrix."""
        _write(self.folder / f"{GRAM}.safetensors", {"products": gram.products})
        write_json(self.folder / f"{GRAM}.json", {"places": [list(place) for place in gram.places]})

        (self.folder / ERRORS).unlink(missing_ok=True)

    def errors(self) -> dict[Place, torch.Tensor]:
        """Errors of the output, of the layers that were rounded before the search was stopped."""
        return {_place(key): each for key, each in _read(self.folder / ERRORS).items()}

    def keep_errors(self, errors: Mapping[Place, torch.Tensor]) -> None:
        """Write them."""
        _write(self.folder / ERRORS, {f"{layer} {width}": each for (layer, width), each in errors.items()})

    def content(self) -> dict[Place, float]:
        """Distances of pictures with single layers in few bits."""
        listed = read_json(self.folder / CONTENT) or {}
        return {(layer, width): score for layer, own in listed.items() for width, score in own.items()}

    def keep_content(self, scores: Mapping[Place, float]) -> None:
        """Write them."""
        listed: dict[str, dict[str, float]] = {}
        for (layer, width), score in scores.items():
            listed.setdefault(layer, {})[width] = score
        write_json(self.folder / CONTENT, listed)

    def judged(self) -> dict[str, dict[str, float]]:
        """Scores of choices, by a digest of the choice."""
        return dict(read_json(self.folder / JUDGED) or {})

    def keep_judged(self, judged: Mapping[str, dict[str, float]]) -> None:
        """Write them."""
        write_json(self.folder / JUDGED, dict(judged))


def key_of(layers: Mapping[str, str]) -> str:
    """A text that stands for a choice of schemes."""
    from dit_accel.plan.fingerprint import digest

    return digest(json.loads(json.dumps(dict(layers))))[:16]


def _place(key: str) -> Place:
    layer, _, width = key.partition(" ")
    return layer, width


def _read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError):
        return {}
    return tensors


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save

    write_whole(path, save({name: each.contiguous() for name, each in tensors.items()}))
