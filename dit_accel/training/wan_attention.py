"""What makes a Wan transformer fast in training: some frames of a video at a time, and plain attention on the CPU."""

import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanRotaryPosEmbed


class ChosenFramesRope(torch.nn.Module):
    """Stands in for ``transformer.rope``: the inputs may be the chosen frames of a longer video.

    Args:
        rope: The transformer's own embedding.

    Attributes:
        chosen: Numbers of the frames, int64 [k]; ``None``: all, as the stock embedding has it.
    """

    chosen: torch.Tensor | None

    def __init__(self, rope: WanRotaryPosEmbed) -> None:
        super().__init__()
        self.rope = rope
        self.register_buffer("chosen", None, persistent=False)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the tokens of [B, C, k, h, w], each [1, N, 1, D]."""
        if self.chosen is None:
            stock: tuple[torch.Tensor, torch.Tensor] = self.rope(hidden_states)
            return stock
        _, _, _, height, width = hidden_states.shape
        _, p_h, p_w = self.rope.patch_size
        k, rows, columns = len(self.chosen), height // p_h, width // p_w
        tables = []
        for table in (self.rope.freqs_cos, self.rope.freqs_sin):
            t, y, x = table.split([self.rope.t_dim, self.rope.h_dim, self.rope.w_dim], dim=1)
            parts = (t[self.chosen][:, None, None], y[:rows][None, :, None], x[:columns][None, None])
            full = [part.expand(k, rows, columns, -1) for part in parts]
            tables.append(torch.cat(full, dim=-1).reshape(1, k * rows * columns, 1, -1))
        return tables[0], tables[1]


class MatmulAttention:
    """Attention by plain matrix products: on the CPU its backward pass beats the fused one. For training only."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Compute what ``WanAttnProcessor`` computes for text-to-video."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        k = attn.norm_k(attn.to_k(context)).unflatten(2, (attn.heads, -1))
        v = attn.to_v(context).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            q, k = _rotate(q, *rotary_emb), _rotate(k, *rotary_emb)
        scores = torch.matmul(q.transpose(1, 2), k.permute(0, 2, 3, 1)) * q.shape[-1] ** -0.5
        out = torch.matmul(scores.softmax(dim=-1).to(v.dtype), v.transpose(1, 2))
        projected: torch.Tensor = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return projected


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2).type_as(x)
