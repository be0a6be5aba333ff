"""Self-attention over the rows of all ranks: keys and values of the others, or of the neighbours' nearest rows."""

from collections.abc import Sequence
from typing import Any

import torch

from dit_accel.errors import UnsupportedModelError
from dit_accel.passes.attention.routing import Route
from dit_accel.passes.patch_parallel import int8
from dit_accel.passes.patch_parallel.stage import Place, Stage


def halo_rows(rows: int, share: float) -> int:
    """How many of ``rows`` a neighbour sees: the nearest whole number, at least one."""
    return max(1, min(rows, int(rows * share + 0.5)))


class PatchRoute(Route):
    """Stands for the attention function in one attention module, whose queries are those of this rank's rows.

    Attributes:
        layer: Id of its site.
        stage: Where the running call is; nothing is split while it has no place.
        joint: Whether text tokens are in its sequence.
    """

    layer: str
    stage: Stage
    joint: bool

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
        """As the function it stands for, with the keys and values of all ranks."""
        place = self.stage.place
        if place is not None:
            self._refuse(attn_mask, is_causal)
            if self.heads_first:
                key, value = key.transpose(1, 2), value.transpose(1, 2)
            key, value = exchanged(place, self.layer, key, value, joint=self.joint)
            if self.heads_first:
                key, value = key.transpose(1, 2), value.transpose(1, 2)
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

    def _refuse(self, mask: Any, is_causal: bool) -> None:
        if mask is not None or is_causal:
            raise UnsupportedModelError(
                f"'{self.layer}' is called with an attention mask, which is of the whole picture: patches cannot be "
                "split here; use data parallelism, or the guidance split"
            )


def exchanged(
    place: Place, layer: str, key: torch.Tensor, value: torch.Tensor, *, joint: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys and values that this rank's queries are to see.

    Args:
        place: Of the call.
        layer: Who asks.
        key: Of this rank's tokens and the text, [B, n, H, D], rotated already.
        value: The same.
        joint: Whether text tokens are among them.

    Returns:
        Both [B, m, H, D], in the order in which one process has them: every rank then adds up in the same order.
    """
    mailbox, tokens = place.mailbox, place.tokens
    comm = mailbox.comm
    pair = torch.stack([key, value])
    text, own = tokens.parted(pair, 2) if joint else (None, pair)
    comm.note("compute", layer)
    if place.halo is not None and not mailbox.fresh:
        seen = _with_halos(place, layer, own)
    else:
        seen = tokens.whole(_of_all(place, layer, own), 2)
        if place.halo is not None:
            _keep_halos(place, layer, own, seen)
    key, value = tokens.joined(text, seen, 2)
    return key, value


def _of_all(place: Place, layer: str, own: torch.Tensor) -> Sequence[torch.Tensor]:
    mailbox, sizes = place.mailbox, place.tokens.share.scaled(own.shape[2])
    shapes = [(*own.shape[:2], size, *own.shape[3:]) for size in sizes]
    if not place.as_int8:
        return mailbox.gather(layer, own, shapes)
    packed = mailbox.gather(layer, int8.pack(own), [int8.packed_shape(shape) for shape in shapes])
    return [own if r == mailbox.comm.rank else int8.unpack(part, own.dtype) for r, part in enumerate(packed)]


def _with_halos(place: Place, layer: str, own: torch.Tensor) -> torch.Tensor:
    """This rank's rows between the nearest ones of its neighbours, which are those of the evaluation before."""
    mailbox = place.mailbox
    assert place.halo is not None
    grid, rows = _grid(place, own)
    given = halo_rows(rows[mailbox.comm.rank], place.halo)
    to_above, to_below = grid[:, :, :, :given], grid[:, :, :, grid.shape[3] - given :]
    shapes = [_halo_shape(place, grid, rows, peer) for peer in (mailbox.comm.rank - 1, mailbox.comm.rank + 1)]
    if place.as_int8:
        above, below = mailbox.halo(
            layer, int8.pack(to_above), int8.pack(to_below), *(int8.packed_shape(shape) for shape in shapes)
        )
        halos = [int8.unpack(part, own.dtype) if part.numel() else None for part in (above, below)]
    else:
        halos = [part if part.numel() else None for part in mailbox.halo(layer, to_above, to_below, *shapes)]
    parts = [part for part in (halos[0], grid, halos[1]) if part is not None]
    return torch.cat(parts, 3).flatten(2, 4)


def _keep_halos(place: Place, layer: str, own: torch.Tensor, seen: torch.Tensor) -> None:
    """Of what a fresh evaluation has gathered, keep what the first stale one will see."""
    mailbox = place.mailbox
    assert place.halo is not None
    grid, rows = _grid(place, own)
    whole = seen.unflatten(2, (grid.shape[2], sum(rows), grid.shape[4]))
    first, after = sum(rows[: mailbox.comm.rank]), sum(rows[: mailbox.comm.rank + 1])
    above, below = whole[:, :, :, :0], whole[:, :, :, :0]
    if mailbox.comm.rank:
        above = whole[:, :, :, first - halo_rows(rows[mailbox.comm.rank - 1], place.halo) : first]
    if mailbox.comm.rank + 1 < mailbox.comm.size:
        below = whole[:, :, :, after : after + halo_rows(rows[mailbox.comm.rank + 1], place.halo)]
    kept = [part.clone() for part in (above, below)]
    mailbox.know(layer, [int8.pack(part) if place.as_int8 and part.numel() else part for part in kept])


def _grid(place: Place, own: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Tokens [2, B, n, H, D] as [2, B, F, rows, columns, H, D], and the rows of each rank on this grid."""
    tokens, share = place.tokens, place.tokens.share
    halvings, columns = 0, tokens.columns
    while tokens.frames * (share.own >> halvings) * columns > own.shape[2]:
        # Rows are whole units; columns may be odd, of which a convolution of stride 2 makes one more than half.
        halvings, columns = halvings + 1, (columns + 1) // 2
    grid = own.unflatten(2, (tokens.frames, share.own >> halvings, columns))
    return grid, tuple(count >> halvings for count in share.counts)


def _halo_shape(place: Place, grid: torch.Tensor, rows: tuple[int, ...], peer: int) -> tuple[int, ...]:
    assert place.halo is not None
    count = halo_rows(rows[peer], place.halo) if 0 <= peer < len(rows) else 0
    return (*grid.shape[:3], count, *grid.shape[4:])
