"""q, k and v are reached on live modules of many families; a route that does nothing changes no bit, and is undone."""

import copy
import pickle

import pytest
import torch
from tiny import tiny_inputs, tiny_model

from dit_accel.families.targets import find_targets
from dit_accel.kernels import attention
from dit_accel.kernels.attention import dense
from dit_accel.passes.attention import routing
from dit_accel.passes.attention.routing import is_routed, routable, route
from dit_accel.runtime.ledger import PatchLedger

# Processors of every kind: through diffusers' dispatcher and through torch, joint in both orders, in UNets, refiners.
FAMILIES = ["wan", "cogvideox", "flux", "sd3", "pixart", "sd", "lumina2", "ltx", "qwen_image", "z_image", "mochi"]


def output(model, inputs) -> torch.Tensor:
    result = model(**inputs)
    while not isinstance(result, torch.Tensor):
        result = result[0] if isinstance(result, tuple | list) else result.sample
    return result


class Watched(dict):
    """Dense attention by another way, which counts."""

    def __call__(self, q, k, v, scale):
        assert q.dim() == 4 and q.shape == k.shape
        self[q.shape[1]] = self.get(q.shape[1], 0) + 1
        return dense(q, k, v, scale=scale)


@pytest.mark.parametrize("name", FAMILIES)
def test_q_k_and_v_are_reached_and_nothing_else_changes(name: str, monkeypatch) -> None:
    monkeypatch.setattr(routing, "why_dense", lambda q: None)  # tiny heads have no kernel
    model = tiny_model(name)
    inputs = tiny_inputs(name, model)
    plain = output(model, inputs)
    modules = [module for _, module in routable(find_targets(model)[0])]
    before = [module.processor for module in modules]
    assert modules
    ledger = PatchLedger()
    routes = [route(module, ledger, by="test") for module in modules]
    assert torch.equal(output(model, inputs), plain)
    assert not any(each.count() for each in routes) and all(each.calls == 1 for each in routes)
    assert all(is_routed(module, each) for module, each in zip(modules, routes, strict=True))
    watched = Watched()
    for each in routes:
        each.attend = watched
    assert torch.allclose(output(model, inputs), plain, atol=1e-5)
    assert sum(watched.values()) >= len(routes)
    ledger.undo()
    assert all(module.processor is processor for module, processor in zip(modules, before, strict=True))
    assert torch.equal(output(model, inputs), plain)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attn_mask": torch.ones(1, 1, 1, 4, dtype=torch.bool)}, "it is called with an attention mask"),
        ({"is_causal": True}, "it is called with an attention mask"),
        ({"enable_gqa": True}, "spread over devices or groups"),
        ({"key": torch.zeros(1, 9, 2, 16)}, "its 4 queries do not belong to its 9 keys"),
        ({"length": 9}, "a sequence of 4 tokens, the masks are for 9"),
        ({"dim": 24}, "no sparse kernel for heads of size 24"),
        ({}, None),
    ],
)
def test_what_a_sparse_kernel_cannot_do_goes_to_the_function_itself(change: dict, reason: str | None) -> None:
    calls = []
    each = routing.Route(lambda query, *rest, **kwargs: calls.append(kwargs) or query, heads_first=False)
    each.reset(change.pop("length", 4))
    each.attend = lambda q, k, v, scale: q + 1
    q = torch.zeros(1, 4, 2, change.pop("dim", 16))
    key = change.pop("key", q)
    result = each(q, key, key, **change)
    assert each.count() == (reason is None) and each.calls == 1 and each.answered == (reason is None)
    assert not each.count() and each.calls == 1, "each once"
    assert bool(result.any()) == (reason is None) and len(calls) == (reason is not None)
    assert not each.refusals if reason is None else any(reason in words for words in each.refusals)


def test_copies_and_pickles_are_of_the_original() -> None:
    model = tiny_model("wan")
    _, module = next(routable(find_targets(model)[0]))
    kind = type(module.processor)
    ledger = PatchLedger()
    route(module, ledger, by="test")
    assert isinstance(module.processor, kind) and type(module.processor) is not kind
    assert type(copy.deepcopy(model).blocks[0].attn1.processor) is kind
    assert type(pickle.loads(pickle.dumps(module.processor))) is kind


def test_the_state_of_the_processor_is_shared() -> None:
    """``set_attention_backend`` writes to what it finds, and what it wrote stays when the route is gone."""
    model = tiny_model("wan")
    _, module = next(routable(find_targets(model)[0]))
    original = module.processor
    ledger = PatchLedger()
    route(module, ledger, by="test")
    module.processor._attention_backend = "native"
    ledger.undo()
    assert module.processor is original and original._attention_backend == "native"


def test_linear_attention_is_left_alone() -> None:
    assert list(routable(find_targets(tiny_model("sana"))[0])) == []
    assert attention.why_dense(torch.zeros(1, 4, 2, 64)) is None
