"""The leaf modules of a block whose outputs can be kept: attentions and feed-forwards, by name, class and make."""

from collections.abc import Iterator

from torch import nn

from dit_accel.families.base import SiteSpec
from dit_accel.families.source import most_calls

_FF_NAMES = ("ff", "ffn", "mlp", "feed_forward", "feedforward", "img_mlp", "txt_mlp")
_CONTEXT_WORDS = ("context", "txt", "text", "encoder", "_c")
# Two-layer perceptrons of these names make embeddings and modulation: small, and of the current step.
_NO_FF_WORDS = ("emb", "time", "mod", "gate", "cond", "scale", "shift", "proj", "ada")
_DEPTH = 3  # blocks inside wrappers (HiDream's), leaves inside halves of a block


def leaf_specs(block: nn.Module) -> list[SiteSpec]:
    """The attentions and feed-forwards of a block, at any depth that a wrapper may add, called at most once each.

    That they are called once is read from source here; what a live call shows counts for more
    (:mod:`dit_accel.left_out`).
    """
    return [SiteSpec(path=path, kind=kind) for path, kind in _leaves(block, "", _DEPTH)]


def _leaves(module: nn.Module, prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    container = isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
    for name, child in module.named_children():
        kind = kind_of(name, child)
        if not container and most_calls(type(module), name) > 1 and not isinstance(child, nn.ModuleList):
            continue
        if kind is not None:
            if container or most_calls(type(module), name) == 1:
                yield prefix + name, kind
        elif depth > 0 and not _is_norm(name, child):
            yield from _leaves(child, f"{prefix}{name}.", depth - 1)


def kind_of(name: str, module: nn.Module) -> str | None:
    """What a child of a block computes, by its name and its class; ``None`` for what is no leaf site."""
    lowered, cls = name.lower(), type(module).__name__.lower()
    if _is_norm(name, module) or not any(True for _ in module.parameters()):
        return None
    if isinstance(module, nn.ModuleList) or "block" in cls:
        return None
    if "attention" in cls or "attn" in cls or lowered.startswith(("attn", "attention", "self_attn", "cross_attn")):
        if "cross" in lowered or getattr(module, "is_cross_attention", False):
            return "cross_attn"
        return "joint_attn" if getattr(module, "add_k_proj", None) is not None else "self_attn"
    stem = lowered
    context = False
    for word in _CONTEXT_WORDS:
        if stem.endswith(word) or stem.startswith(word):
            context = True
            stem = stem.removesuffix(word).removeprefix(word).strip("_")
    if stem in _FF_NAMES or lowered in _FF_NAMES or "feedforward" in cls or cls.endswith("mlp"):
        return "ff_context" if context or lowered.startswith("txt") else "ff"
    return "ff" if _is_perceptron(lowered, module) else None


def _is_norm(name: str, module: nn.Module) -> bool:
    return "norm" in name.lower() or "norm" in type(module).__name__.lower()


def _is_perceptron(name: str, module: nn.Module) -> bool:
    """A feed-forward written out as ``nn.Sequential`` (Stable Cascade)."""
    if not isinstance(module, nn.Sequential) or any(word in name for word in _NO_FF_WORDS):
        return False
    return sum(isinstance(layer, nn.Linear) for layer in module) >= 2
