"""What a layer has of the other ranks: fresh and waited for, or of the evaluation before, the next one on its way."""

from collections.abc import Callable, Sequence

import torch

from dit_accel.passes.patch_parallel.comm import Arrival, Comm, Shape


class Mailbox:
    """One guidance branch's letters between ranks, over one trajectory.

    A fresh layer waits for what the others have now. A stale one takes what they had when the layer was last computed,
    and sends what it has now, to be taken when it is computed next. Each operation receives into memory of its own, so
    that what is read and what is being received are never the same (double buffering); what was read is let go.

    Args:
        comm: To the other ranks.
        warmup: Evaluations that are fresh; ``None``: all.

    Attributes:
        fresh: Whether this evaluation waits.
        last: Whether nothing that this evaluation sends would ever be read.
    """

    def __init__(self, comm: Comm, warmup: int | None) -> None:
        self.comm = comm
        self.warmup = warmup
        self.fresh = True
        self.last = False
        self._calls = 0
        self._sent: dict[str, Arrival] = {}
        self._known: dict[str, list[torch.Tensor]] = {}
        self._summed: dict[str, torch.Tensor] = {}

    def begin(self, step: int, *, last: bool) -> None:
        """An evaluation begins.

        Args:
            step: Which.
            last: Whether it is the last one of the run that is computed.
        """
        self.fresh = self.warmup is None or self._calls < self.warmup
        self.last = last
        self._calls += 1
        self.comm.step = step
        self.comm.phase = "warmup" if self.fresh else "steady"

    def gather(self, layer: str, own: torch.Tensor, shapes: Sequence[Shape]) -> list[torch.Tensor]:
        """What every rank has, ours always as it is now.

        Args:
            layer: Who asks.
            own: What this rank has.
            shapes: Of each rank's.
        """

        def send() -> Arrival:
            return self.comm.all_gather(layer, own, shapes)

        parts = list(self._taken(layer, send))
        parts[self.comm.rank] = own
        return parts

    def gather_late(self, layer: str, own: torch.Tensor, shapes: Sequence[Shape]) -> list[torch.Tensor]:
        """As :meth:`gather`, but ours too as it was when the others' were sent: to see how it has changed since."""
        return list(self._taken(layer, lambda: self.comm.all_gather(layer, own, shapes)))

    def halo(
        self, layer: str, to_above: torch.Tensor, to_below: torch.Tensor, from_above: Shape, from_below: Shape
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the ranks above and below have for us; without elements at the picture's edge."""
        above, below = self._taken(layer, lambda: self.comm.halo(layer, to_above, to_below, from_above, from_below))
        return above, below

    def total(self, layer: str, own: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, ours always as it is now: stale is only what the others have added to it."""
        before = self._summed.get(layer)

        def send() -> Arrival:
            self._summed[layer] = own
            return self.comm.all_reduce(layer, own)

        (total,) = self._taken(layer, send)
        # What was sent for the first time just now has come, and ours is in it as it is.
        return total if self.fresh or before is None else total + own - before

    def know(self, layer: str, parts: list[torch.Tensor]) -> None:
        """Put down what a layer would otherwise have been sent, for the evaluation that uses it first."""
        self._known[layer] = parts

    def _taken(self, layer: str, send: Callable[[], Arrival]) -> list[torch.Tensor]:
        if self.fresh:
            parts = send().take()
            if self.warmup is not None:
                self._known[layer] = parts
            return parts
        arrival = self._sent.pop(layer, None)
        if arrival is not None:
            self._known[layer] = arrival.take()
        if layer not in self._known:  # a layer that a cache has answered for until now
            self._known[layer] = send().take()
        elif not self.last:
            self._sent[layer] = send()
        return self._known[layer]
