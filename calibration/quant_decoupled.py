"""Gives bits by what a layer is for: what is drawn, how clean it is, how it moves. MixDQ's metric decoupling.

MixDQ (arXiv 2405.17873, section 3.2): layers that decide on content (cross-attention, feed-forward) are judged by the
structure of the pictures, the others by the noise of the output; ViDiT-Q adds temporal attention, judged by motion.
Each group has a program and a budget of its own; how the whole budget is split is scanned, and each split is drawn.
Departures: the error of the output comes from the Gram matrix that is there already; splits are in bytes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from dit_accel.calibration.quant_allocate import Budget, Option, allocate
from dit_accel.calibration.quant_fit import LayerFit
from dit_accel.calibration.quant_gram import Gram, Place, layer_of
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.roles import Found
from dit_accel.passes.quantize.scheme import PLAIN
from dit_accel.passes.quantize.ways import INTEGERS, Ways

Group = Literal["content", "quality", "motion"]
RATIOS = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5)  # bytes a weight of content by those of quality
_CONTENT = re.compile(
    r"\.(attn2|cross_attn\w*|cross_attention|ff\w*|ffn|mlp|feed_forward|proj_mlp)(\.|$)|add_[kqv]_proj"
)
_MOTION = re.compile(r"motion_module|temporal|attn_temp")


class Judging(Protocol):
    """What a search knows, and can do: :class:`~dit_accel.calibration.quant_search.Search`."""

    gram: Gram | None

    @property
    def bytes_before(self) -> int: ...

    @property
    def bytes_apart(self) -> float: ...

    def options(self) -> list[Option]: ...

    def judge(self, chosen: dict[str, str]) -> dict[str, float]: ...


def group_of(name: str) -> Group:
    """What a layer is for, by its name."""
    if _MOTION.search(name):
        return "motion"
    return "content" if _CONTENT.search(name) else "quality"


def content_scores(
    draw: Callable[[], Tensor],
    layers: Mapping[str, Found],
    fits: Mapping[Place, LayerFit],
    *,
    known: Mapping[Place, float] | None = None,
    keep: Callable[[Mapping[Place, float]], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[Place, float]:
    """How far pictures are from the plain ones with one layer in few bits, for content and motion.

    Args:
        draw: A few pictures [B, 3, H, W] or videos [B, F, 3, H, W], the same each time.
        layers: By name in plans.
        fits: Each layer in each width.
        known: What was measured before, which is not measured again.
        keep: Given all that is measured so far, after each.
        on_progress: Called with how many of how many are done.

    Returns:
        1 - SSIM of what decides on content, and the mean square error of differences between frames of what moves.
    """
    wanted = [place for place in fits if group_of(place[0]) != "quality"]
    found = {place: score for place, score in (known or {}).items() if place in wanted}
    plain = draw()
    ways = Ways(INTEGERS)
    for number, place in enumerate(wanted):
        if place not in found:
            layer = layers[place[0]]
            layer.parent._modules[layer.name] = layer_of(layer, fits[place], ways)
            try:
                drawn = draw()
            finally:
                layer.parent._modules[layer.name] = layer.layer
            found[place] = _distance(drawn, plain, group_of(place[0]))
            if keep is not None:
                keep(found)
        if on_progress is not None:
            on_progress(number + 1, len(wanted))
    return found


def decoupled(
    search: Judging, memory: float, scores: Mapping[Place, float], ratios: Sequence[float] = RATIOS
) -> dict[str, str]:
    """The choice within a budget whose pictures are nearest to the plain ones, over all splits of the budget.

    Raises:
        ConfigError: No split is within the budget.
    """
    options, gram = search.options(), search.gram
    assert gram is not None
    total = max(1.0, memory * search.bytes_before - search.bytes_apart)
    best: tuple[float, dict[str, str]] | None = None
    for chosen in {
        tuple(sorted(each.items())): each for each in _splits(options, gram, scores, total, ratios)
    }.values():
        psnr = search.judge(chosen)["psnr_db"]
        if best is None or psnr > best[0]:
            best = psnr, chosen
    if best is None:
        raise ConfigError(f"no split between layers of content and others is within {memory:.1%} of the memory")
    return best[1]


def _splits(
    options: Sequence[Option], gram: Gram, scores: Mapping[Place, float], total: float, ratios: Sequence[float]
) -> list[dict[str, str]]:
    groups: dict[Group, list[Option]] = {}
    for option in options:
        groups.setdefault(group_of(option.layer), []).append(option)
    # Of a layer in full, the bytes stand for how many weights it has.
    sizes = {group: sum(o.nbytes for o in own if o.scheme == PLAIN) for group, own in groups.items()}
    judged = {group: gram if group == "quality" else _by_scores(own, scores) for group, own in groups.items()}
    found = []
    for ratio in ratios:
        shares = {group: size * (ratio if group == "content" else 1.0) for group, size in sizes.items()}
        whole = sum(shares.values())
        try:
            chosen: dict[str, str] = {}
            for group, own in groups.items():
                budget = Budget(nbytes=total * shares[group] / whole)
                chosen |= allocate(own, judged[group], budget, interactions=False)
        except ConfigError:
            continue  # this split leaves a group less than it needs
        found.append(chosen)
    return found


def _by_scores(options: Sequence[Option], scores: Mapping[Place, float]) -> Gram:
    places = tuple((option.layer, option.scheme) for option in options if option.scheme != PLAIN)
    values = torch.tensor([scores[place] for place in places], dtype=torch.float64)
    return Gram(places=places, products=torch.diag(values))


def _distance(drawn: Tensor, plain: Tensor, group: Group) -> float:
    if group == "motion" and drawn.dim() == 5:
        return float((drawn.diff(dim=1) - plain.diff(dim=1)).square().mean())
    from dit_accel.evaluation.metrics.fidelity import differences

    alike = differences(drawn, plain, ssim=True)["ssim"]
    return 1.0 - sum(alike) / len(alike)
