"""The kinds of pipeline that the one trainer can train: what is particular to each, in a file of its own."""

from dit_accel.training.kinds.base import Modules, PipelineKind, TextInputs, Tokenizers
from dit_accel.training.kinds.flux_kind import FluxKind
from dit_accel.training.kinds.pixart_kind import PixArtKind
from dit_accel.training.kinds.sd_kind import StableDiffusionKind
from dit_accel.training.kinds.wan_kind import WanKind

__all__ = ["KINDS", "Modules", "PipelineKind", "TextInputs", "Tokenizers"]

KINDS: dict[str, PipelineKind] = {
    "pixart": PixArtKind(),
    "sd": StableDiffusionKind(),
    "flux": FluxKind(),
    "wan": WanKind(),
}
