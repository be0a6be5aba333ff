"""Where the rows of a picture are cut out of a denoiser's stream, and put together again: facts as data.

A denoiser is given the whole latents, so that its own code computes sizes, positions and the shape of its output as
ever. Behind its embedding its rows are cut out, and in front of the code that folds tokens into a picture they are
gathered: no line of it is replaced. (diffusers' ``_cp_plan`` cuts at such places, too, there into equal parts.)
"""

from dataclasses import dataclass, field
from typing import Literal

from dit_accel.registry import Registry

Kind = Literal["tokens", "rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One module whose output (each tensor of it) is cut.

    Attributes:
        path: Of the module, from the denoiser.
        dim: The axis.
        kind: What lies in it: the tokens of the picture, or its rows.
        with_text: Whether the text's tokens are in it, too; they stay.
    """

    path: str
    dim: int
    kind: Kind = "tokens"
    with_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How the denoisers of one family are split.

    Attributes:
        family: Name of the family.
        cuts: Where rows are cut out.
        gather: The module whose output, [B, n, C] (``"rows"``: [B, C, H, W]), is gathered.
        kind: What flows between: tokens, or, in a UNet, pictures, whose convolutions and norms then need neighbours.
        refused: Arguments that are of the whole picture's size and would have to be cut, too: their presence is an
            error.
        sized: Path of a list of blocks that are told the picture's height, and with it fold tokens into rows, which
            convolutions inside then see; ``None``: there is no such list.
        per_token: Modules whose outputs may be per token (Wan 2.2 5B has a timestep for each).
    """

    family: str
    cuts: tuple[Cut, ...]
    gather: str
    kind: Kind = "tokens"
    refused: tuple[str, ...] = ()
    sized: str | None = None
    per_token: tuple[str, ...] = field(default=())


SPLITS: Registry[Split] = Registry("split")


def register_split(split: Split) -> Split:
    """Make a family's split known.

    Raises:
        ConfigError: The family has one.
    """
    SPLITS.register(split.family)(split)
    return split


for _split in (
    Split(family="pixart", cuts=(Cut(path="pos_embed", dim=1),), gather="proj_out", refused=("attention_mask",)),
    Split(family="dit", cuts=(Cut(path="pos_embed", dim=1),), gather="proj_out_2"),
    Split(
        family="sd3",
        cuts=(Cut(path="pos_embed", dim=1),),
        gather="proj_out",
        refused=("block_controlnet_hidden_states",),
    ),
    Split(
        family="flux",
        cuts=(Cut(path="x_embedder", dim=1), Cut(path="pos_embed", dim=0, with_text=True)),
        gather="proj_out",
        refused=("controlnet_block_samples", "controlnet_single_block_samples"),
    ),
    Split(
        family="wan",
        cuts=(Cut(path="patch_embedding", dim=3, kind="rows"), Cut(path="rope", dim=1)),
        gather="proj_out",
        per_token=("condition_embedder",),
    ),
    Split(
        family="sana",
        cuts=(Cut(path="patch_embed", dim=1),),
        gather="proj_out",
        refused=("controlnet_block_samples", "attention_mask"),
        sized="transformer_blocks",
    ),
    Split(
        family="unet",
        cuts=(Cut(path="conv_in", dim=2, kind="rows"),),
        gather="conv_out",
        kind="rows",
        refused=(
            "down_block_additional_residuals",
            "mid_block_additional_residual",
            "down_intrablock_additional_residuals",
            "attention_mask",
        ),
    ),
):
    register_split(_split)
