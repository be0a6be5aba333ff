"""Gets hold of q, k and v behind the rotary embedding, on live modules of diffusers, without copying their code.

A processor of diffusers projects, norms, rotates, and hands q, k and v to one function: ``dispatch_attention_fn``, or
``scaled_dot_product_attention`` in older ones. The module is given a processor whose ``__call__`` is that same code,
for which this one name means a :class:`Route`. Nothing else is changed: no class, no module of Python, no line of
diffusers, and the state of the processor (its backend, its settings) is that of the one that was there.
"""

import copy
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, overload

import torch
from torch import nn

from dit_accel.families.base import BoundSite
from dit_accel.families.targets import Target
from dit_accel.kernels.attention import why_dense
from dit_accel.runtime.ledger import PatchLedger

SCORES = "decides which attention scores are computed"
KINDS = ("self_attn", "joint_attn", "single_attn")
_DISPATCH, _SDPA = "dispatch_attention_fn", "scaled_dot_product_attention"

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None], torch.Tensor]
"""Attention over q, k and v [B, N, H, D] with a scale (``None``: 1 / sqrt(D)), to [B, N, H, D]."""

ANSWERED, UNASKED = "answered", "unasked"
"""What became of a call that nothing was refused in: ``attend`` answered it, or there was none."""


class Route:
    """Stands for the attention function in one attention module.

    Args:
        native: The function that it stands for.
        heads_first: Whether that one takes [B, H, N, D].

    Attributes:
        attend: What answers instead; ``None``: the function itself.
        length: Tokens that ``attend`` is made for, sequences of another length are not given to it; ``None``: any.
        outcome: What became of the last call: :data:`ANSWERED`, :data:`UNASKED`, or why ``attend`` could not do it;
            ``None``: none has come since :meth:`count`.
        refusals: Why calls went to the function itself although ``attend`` was there, each once.
        calls: How many calls were counted.
        answered: How many of them ``attend`` has answered.
    """

    def __init__(self, native: Callable[..., torch.Tensor], *, heads_first: bool) -> None:
        self.native = native
        self.heads_first = heads_first
        self.attend: Attend | None = None
        self.length: int | None = None
        self.outcome: str | None = None
        self.refusals: dict[str, None] = {}
        self.calls = self.answered = 0

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        **others: Any,
    ) -> torch.Tensor:
        """As the function it stands for."""
        outcome = UNASKED
        if self.attend is not None:
            reason = self._refusal(query, key, attn_mask, is_causal, enable_gqa, others.get("parallel_config"))
            if reason is None:
                self.became(ANSWERED)
                if not self.heads_first:
                    return self.attend(query, key, value, scale)
                q, k, v = (each.transpose(1, 2) for each in (query, key, value))
                return self.attend(q, k, v, scale).transpose(1, 2)
            outcome = reason
        self.became(outcome)
        return self.native(
            query,
            key,
            value,
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
            **others,
        )

    def became(self, outcome: str) -> None:
        """Take note of a call's :attr:`outcome`; runs inside of graphs."""
        # Written and never read here: a compiled row repeats that at every call, and depends on nothing.
        self.outcome = outcome

    def reset(self, length: int | None = None) -> None:
        """A run begins, whose sequences are to be of this length."""
        self.attend, self.length, self.outcome = None, length, None
        self.calls = self.answered = 0
        self.refusals.clear()

    def count(self) -> bool:
        """Put the last call into the books, outside of every graph; whether ``attend`` answered it."""
        outcome, self.outcome = self.outcome, None
        if outcome is None:
            return False
        self.calls += 1
        self.answered += outcome == ANSWERED
        if outcome not in (ANSWERED, UNASKED):
            self.refusals[outcome] = None
        return outcome == ANSWERED

    def _refusal(
        self, query: torch.Tensor, key: torch.Tensor, mask: Any, is_causal: bool, enable_gqa: bool, parallel: Any
    ) -> str | None:
        tokens = query.shape[-2] if self.heads_first else query.shape[1]
        if key.shape != query.shape:
            return (
                f"its {tokens} queries do not belong to its {key.shape[-2] if self.heads_first else key.shape[1]} keys"
            )
        if self.length not in (None, tokens):
            return f"a sequence of {tokens} tokens, the masks are for {self.length}"
        if mask is not None or is_causal:
            return "it is called with an attention mask"
        if enable_gqa or parallel is not None:
            return "its heads or its tokens are spread over devices or groups"
        return why_dense(query)


R = TypeVar("R", bound=Route)


def routable(target: Target) -> Iterator[tuple[BoundSite, nn.Module]]:
    """The attention modules of a denoiser whose scores a pass can decide on: self-attention and joint attention."""
    for site in target.layout.sites:
        if site.info.kind in KINDS:
            module = target.denoiser.get_submodule(site.path)
            if _name_in(getattr(module, "processor", None)) is not None:
                yield site, module


@overload
def route(module: nn.Module, ledger: PatchLedger, *, by: str) -> Route: ...


@overload
def route(module: nn.Module, ledger: PatchLedger, *, by: str, kind: type[R]) -> R: ...


def route(module: nn.Module, ledger: PatchLedger, *, by: str, kind: type[Route] = Route) -> Route:
    """Give an attention module a processor that calls a route of this kind, to begin with one that changes nothing."""
    processor: Any = module.processor
    name = _name_in(processor)
    assert name is not None
    code: types.FunctionType = inspect.getattr_static(type(processor), "__call__")
    native = code.__globals__[name]
    if name == _DISPATCH:
        found = kind(native, heads_first=False)
        stand_in: Any = found
    else:
        found = kind(native.scaled_dot_product_attention, heads_first=True)
        stand_in = types.ModuleType(native.__name__)
        vars(stand_in).update(vars(native), scaled_dot_product_attention=found)
    ledger.set(module, "processor", with_names(processor, {name: stand_in}), by=by)
    return found


def with_names(processor: Any, names: Mapping[str, Any]) -> Any:
    """The processor with the same ``__call__``, for whose code some global names mean something else."""
    code: types.FunctionType = inspect.getattr_static(type(processor), "__call__")
    same = types.FunctionType(
        code.__code__, {**code.__globals__, **names}, code.__name__, code.__defaults__, code.__closure__
    )
    same.__kwdefaults__, same.__doc__, same.__annotations__ = code.__kwdefaults__, code.__doc__, code.__annotations__
    return _with_call(processor, same)


def is_routed(module: nn.Module, found: Route) -> bool:
    """Whether the module still calls this route."""
    names = getattr(type(module.processor).__call__, "__globals__", {})
    return found in (names.get(_DISPATCH), getattr(names.get("F"), _SDPA, None))


def _name_in(processor: Any) -> str | None:
    """The global name through which a processor reaches attention; ``None``: it does so in no way that we know."""
    code = inspect.getattr_static(type(processor), "__call__", None)
    if not isinstance(code, types.FunctionType) or not hasattr(processor, "__dict__"):
        return None
    names = code.__code__.co_names
    if _DISPATCH in names and _DISPATCH in code.__globals__:
        return _DISPATCH
    functional = code.__globals__.get("F")
    return "F" if _SDPA in names and "F" in names and inspect.ismodule(functional) else None


def _with_call(processor: Any, call: types.FunctionType) -> Any:
    """The processor with another ``__call__``: of its class's kind, and with the very same state.

    Python looks ``__call__`` up on the class, so an instance of a class of its own has to stand in. Copies and pickles
    of it are the original: they belong to models that nobody has accelerated.
    """
    kind = type(processor)
    members = {
        "__call__": call,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__deepcopy__": lambda self, memo: _copied(processor, memo),
        "__reduce_ex__": lambda self, protocol: (copy.copy, (processor,)),
    }
    own = type(kind.__name__, (kind,), members)
    same: Any = object.__new__(own)
    object.__setattr__(same, "__dict__", vars(processor))
    return same


def _copied(processor: Any, memo: dict[int, Any]) -> Any:
    return copy.deepcopy(processor, memo)
