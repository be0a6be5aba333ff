"""``dit-accel doctor MODEL --check-family``: prove every fact of the families of a pipeline's denoisers."""

import functools
from typing import TYPE_CHECKING, Any

from dit_accel.cli.console import err, out, tell
from dit_accel.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from dit_accel.families import Family
    from dit_accel.pipelines.generation import GenerationSettings

_PROMPT = "a red apple"


def check_families(pipe: Any, settings: "GenerationSettings") -> dict[str, tuple[str, ...]]:
    """What is wrong with the family of each denoiser of a pipeline: a sentence for each wrong fact.

    Args:
        pipe: The pipeline; its denoisers are run and left as they were.
        settings: Of the one call of the pipeline that is made where a family cannot make arguments by itself.
    """
    from rich.progress import track

    from dit_accel.families import resolve_family
    from dit_accel.families.check import check_family
    from dit_accel.families.pipeline import find_denoisers

    found = {}
    for name, module in find_denoisers(pipe):
        family = resolve_family(module)
        bar = functools.partial(track, description=f"{name} ({family.name})", console=err(), transient=True)
        found[name] = check_family(module, family, _arguments(pipe, module, family, settings), track=bar)
    return found


def print_faults(faults: dict[str, tuple[str, ...]]) -> None:
    """One line per fault on stdout, and the verdict for people on stderr."""
    for name, sentences in faults.items():
        for sentence in sentences:
            out().print(f"{name}: {sentence}", markup=False)
        tell(f"{name}: {len(sentences) or 'nothing'} wrong", style="bold red" if sentences else "bold green")


def _arguments(pipe: Any, module: "nn.Module", family: "Family", settings: "GenerationSettings") -> dict[str, Any]:
    from dit_accel.families.live_call import live_call
    from dit_accel.families.pipeline import vae_scale_of
    from dit_accel.families.small_call import small_call
    from dit_accel.pipelines.generation import generate

    try:
        return small_call(module, family, vae_scale_of(pipe, family))
    except UnsupportedModelError as error:
        tell(f"{error}; taking those of one call of the pipeline", style="dim")
        return live_call(module, lambda: generate(pipe, [_PROMPT], [0], settings))
