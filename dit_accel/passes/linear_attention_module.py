"""Attention that costs as much as there are tokens, not their square, and its mixture with softmax attention in
training.

Hedgehog's feature map (Zhang et al. 2024, arXiv 2402.04347), as LinVideo (arXiv 2510.08318) uses it:
phi(q) = softmax(q W) (+) softmax(-q W) over the features, and o_i = phi(q_i) S / (phi(q_i) z) with S = sum phi(k)^T v
and z = sum phi(k), both in float32: sums over tens of thousands of keys do not fit half precision.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.families.targets import Target, find_targets
from dit_accel.kernels.attention import dense
from dit_accel.passes.attention.routing import Route, routable, route
from dit_accel.runtime.ledger import PatchLedger

SUBMODULE, TRAINS = "linear_attention", "linear attention in training"
START = 0.9  # softmax's share of a layer before training; LinVideo begins near 1


class LinearAttention(nn.Module):
    """One layer's, with learned features of queries and of keys, shared by its heads.

    Args:
        head_dim: D.

    Attributes:
        query: W of queries, float32 [D, D]; the identity at the start.
        key: W of keys.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.eye(head_dim))
        self.key = nn.Parameter(torch.eye(head_dim))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Attention of q, k and v [B, N, H, D], behind the rotary embedding, to [B, N, H, D].

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            scale: Of softmax's scores; the learned features have it inside.
        """
        phi_q, phi_k = hedgehog(q, self.query), hedgehog(k, self.key)
        state = torch.einsum("bnhc,bnhd->bhcd", phi_k, v.float())
        weight = phi_k.sum(1)
        over = torch.einsum("bnhc,bhcd->bnhd", phi_q, state)
        under = torch.einsum("bnhc,bhc->bnh", phi_q, weight)
        return (over / under.unsqueeze(-1)).to(v.dtype)


def hedgehog(tokens: Tensor, weight: Tensor) -> Tensor:
    """phi(tokens), float32 [..., 2 D], positive."""
    projected = tokens.float() @ weight.float()
    return torch.cat([projected.softmax(-1), (-projected).softmax(-1)], dim=-1)


class MixedAttention(nn.Module):
    """r softmax + (1 - r) linear: LinVideo's layer in training, with r learned.

    Args:
        head_dim: D.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.linear = LinearAttention(head_dim)
        self.share = nn.Parameter(torch.tensor(START))
        self.decided: bool | None = None

    def get_extra_state(self) -> bool | None:
        """The decision is saved with the weights."""
        return self.decided

    def set_extra_state(self, state: bool | None) -> None:
        """The opposite."""
        self.decided = state

    @property
    def r(self) -> Tensor:
        """Softmax's share, in [0, 1]."""
        return self.share.clamp(0, 1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """As :class:`LinearAttention`. Once it is decided, only one of the two is computed."""
        if self.decided is not None:
            return self.linear(q, k, v, scale) if self.decided else dense(q, k, v, scale=scale)
        r = self.r.to(v.dtype)
        mixed: Tensor = r * dense(q, k, v, scale=scale) + (1 - r) * self.linear(q, k, v, scale)
        return mixed


class MixedLayers:
    """A denoiser whose self-attention can be mixed: as it is outside of :meth:`acting`, mixed within.

    Args:
        denoiser: Of diffusers, with no text in its self-attention (Wan).

    Attributes:
        layers: The mixture of each attention site, by the site's id; also a submodule of the attention module.

    Raises:
        UnsupportedModelError: None of its attention can be routed, or text is part of the sequence.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        (target,) = find_targets(denoiser)
        if reasons := obstacles(target):
            raise UnsupportedModelError(f"linear attention cannot be trained on this model: {reasons[0]}")
        self.layers: dict[str, MixedAttention] = {}
        self._routes: list[tuple[Route, MixedAttention]] = []
        self._ledger = PatchLedger()
        device = next(denoiser.parameters()).device
        for site, module in routable(target):
            mixed = MixedAttention(head_dim_of(module)).to(device)
            self._routes.append((route(module, self._ledger, by=TRAINS), mixed))
            self.layers[site.info.id] = mixed

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Layers are mixed while it lasts; the model's own attention answers again afterwards."""
        for found, mixed in self._routes:
            found.attend = mixed
        try:
            yield
        finally:
            for found, _ in self._routes:
                found.attend = None

    def shares(self) -> Tensor:
        """r of all layers, [L]."""
        return torch.stack([mixed.r for mixed in self.layers.values()])

    def linear_layers(self, count: int) -> tuple[str, ...]:
        """The linear ones, as they were decided; decided now if they were not. Shares may move on afterwards."""
        if any(mixed.decided is None for mixed in self.layers.values()):
            return self.decide(count)
        return tuple(name for name in self.layers if self.layers[name].decided)

    def decide(self, count: int) -> tuple[str, ...]:
        """Make the ``count`` layers with the least of softmax linear and the others softmax; returns the linear ones.

        Raises:
            ConfigError: There are fewer layers.
        """
        if not 0 <= count <= len(self.layers):
            raise ConfigError(f"cannot make {count} of {len(self.layers)} attention layers linear")
        order = sorted(self.layers, key=lambda name: self.layers[name].share.item())
        for number, name in enumerate(order):
            self.layers[name].decided = number < count
        return tuple(name for name in self.layers if self.layers[name].decided)

    def weights(self) -> dict[str, Tensor]:
        """Feature maps of the linear layers, as ``LinearAttentionConfig`` takes them."""
        return {
            f"{name}.{kind}": getattr(mixed.linear, kind).detach().cpu().clone()
            for name, mixed in self.layers.items()
            if mixed.decided
            for kind in ("query", "key")
        }

    def remove(self) -> None:
        """Put the model's own attention back."""
        self._ledger.undo()


def count_loss(shares: Tensor, wanted: int) -> Tensor:
    """(number of linear layers - wanted)^2, with the gradient of the unrounded number (straight through).

    As printed in LinVideo the sum of round(r) counts the layers that stay softmax, and the target the replaced ones;
    here both count replaced ones.
    """
    linear = 1 - shares
    hard = linear.round()
    return ((hard - linear).detach() + linear).sum().sub(wanted).square()


def decisiveness_loss(shares: Tensor, power: float) -> Tensor:
    """Sum of 1 - |2 r - 1|^power: flat but at the ends for a high power, pulling to the nearer end for a low one."""
    return (1 - (2 * shares - 1).abs().clamp_min(1e-6).pow(power)).sum()


def head_dim_of(module: nn.Module) -> int:
    """D of an attention module, from the projection of queries; 0: it has none by that name (Kandinsky 5)."""
    width = getattr(getattr(module, "to_q", None), "out_features", 0) or getattr(module, "inner_dim", 0)
    return int(width) // max(1, int(getattr(module, "heads", 1)))


def obstacles(target: Target, layers: Sequence[str] = ()) -> list[str]:
    """Why a denoiser's self-attention cannot become linear."""
    found = {site.info.id for site, _ in routable(target)}
    if not found:
        return ["none of its self-attention goes through a processor that hands q, k and v on"]
    if target.family.text in ("prefix", "suffix"):
        return ["text is part of its self-attention, whose few tokens linear attention would blur"]
    missing = [name for name in layers if name not in found]
    return [f"it has no attention '{missing[0]}': the weights are of another model"] if missing else []
