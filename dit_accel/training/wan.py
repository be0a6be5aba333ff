"""What makes a Wan transformer learn fast: some frames at a time, plain attention on the CPU, a sense of time."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanAttention, WanRotaryPosEmbed

FRAME_WEIGHT = 0.1
PATH_WEIGHT = 0.2


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


class MotionGuess(torch.nn.Module):
    """Guesses each token's frame, and where the sprite is in it, from inner blocks; trained along, then dropped.

    Rotary positions are relative: in pure noise nothing but the ends of the video tells its first frame from its last,
    and it is in the noisiest steps that a motion is decided. Left alone, our transformer did not find this out: after
    3,000 steps its predictions were the same for "moves left" and "moves right". Asked for the frame it told frames
    apart after 350 steps, and sprites moved, but seldom as the caption said; asked for the sprite's path too, it
    learned what the words mean.

    Args:
        denoiser: The transformer, of at least two blocks: half of them come before the frame is guessed, one more
            before the path.
        num_frames: Frames F of a whole video.
    """

    def __init__(self, denoiser: Any, num_frames: int) -> None:
        super().__init__()
        config = denoiser.config
        dim = config.num_attention_heads * config.attention_head_dim
        self.frame_head = torch.nn.Linear(dim, num_frames)
        self.path_head = torch.nn.Linear(dim, 3)
        middle = len(denoiser.blocks) // 2
        # In tuples, so that the denoiser is no part of this module.
        self._denoiser = (denoiser,)
        self._watched = tuple((k, _Watched(denoiser.blocks[k])) for k in (max(middle - 1, 0), middle))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """See the blocks' outputs for the time being; the denoiser's ``state_dict`` has other names meanwhile."""
        blocks = self._denoiser[0].blocks
        for k, watched in self._watched:
            blocks[k] = watched
        try:
            yield
        finally:
            for k, watched in self._watched:
                blocks[k] = watched.block
                watched.seen = None

    def forward(self, frames: torch.Tensor, paths: torch.Tensor) -> torch.Tensor:
        """Weighted loss of the guesses for the step just computed, a scalar.

        Args:
            frames: Numbers of the frames that were shown, int64 [k].
            paths: Where the sprite is in them, see ``VideoSet.draw_path``, float32 [B, k, 3].
        """
        early, late = (watched.seen for _, watched in self._watched)
        assert early is not None and late is not None, "the denoiser did not run inside watching()"
        k = len(frames)
        logits = self.frame_head(early).float().unflatten(1, (k, -1))
        wanted = frames[None, :, None].expand(logits.shape[:-1])
        path = self.path_head(late.unflatten(1, (k, -1)).mean(dim=2)).float()
        frame_loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten())
        return FRAME_WEIGHT * frame_loss + PATH_WEIGHT * F.mse_loss(path, paths)


class _Watched(torch.nn.Module):
    """A block that keeps its last output."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block
        self.seen: torch.Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        out: torch.Tensor = self.block(*args, **kwargs)
        self.seen = out
        return out


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2).type_as(x)
