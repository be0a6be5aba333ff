"""The one door through which ranks speak: counts every byte, keeps every rank in step, and ends cleanly."""

import logging
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dit_accel.errors import CommunicationError
from dit_accel.passes.patch_parallel.traffic import Entry, Phase, Traffic
from dit_accel.passes.patch_parallel.transport import Handle, Transport
from dit_accel.runtime.trees import leaves

logger = logging.getLogger("dit_accel")

Shape = tuple[int, ...]
Read = Callable[[], list[torch.Tensor]]
Event = tuple[str, str, str, int]  # "post", "wait" or "compute", the operation, the layer, the step


class Arrival:
    """Tensors on their way; :meth:`take` waits for them.

    What is sent is held until it has left, and what is received until it has come.
    """

    def __init__(self, comm: "Comm", entry: Entry, handle: Handle, sent: object, read: "Read") -> None:
        self._comm = comm
        self._entry = entry
        self._handle: Handle | None = handle
        self._sent = sent
        self._read = read

    def take(self) -> list[torch.Tensor]:
        """What has come, waited for.

        Raises:
            CommunicationError: A rank is gone, or did not answer in time.
        """
        self.settle()
        return self._read()

    def settle(self) -> None:
        """Wait, and let go of what was sent."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        self._comm.arrived(self, self._entry, handle)
        self._sent = None


class Comm:
    """What a pass may ask of the other ranks of one group. Every call must be made by all of them, in one order.

    Operations begin at once and run beside the computation; what they return is taken later. Each is entered into the
    books and into a checksum, by which :meth:`agree` finds ranks that are not in step. After the first failure
    nothing more is sent: every later call says the same.

    Args:
        transport: Brings the tensors over.
        traffic: The books; several groups may share them.
        name: Of the group, for messages.
        careful: Compare what is to be done before every operation, so that ranks out of step get an error that says
            where, not a wrong picture or a time-out. It costs a round trip each.

    Attributes:
        step: Denoiser evaluation that is running, for the books.
        phase: Why things are sent now.
        events: What happened in which order, if a list is put here.
    """

    def __init__(self, transport: Transport, traffic: Traffic, *, name: str, careful: bool = False) -> None:
        self.transport = transport
        self.traffic = traffic
        self.name = name
        self.careful = careful
        self.step = 0
        self.phase: Phase = "warmup"
        self.events: list[Event] | None = None
        self._order = 0
        self._pending: dict[Arrival, Entry] = {}
        self._failure: str | None = None

    @property
    def rank(self) -> int:
        """This rank, within the group."""
        return self.transport.rank

    @property
    def size(self) -> int:
        """Ranks of the group."""
        return self.transport.size

    @property
    def num_pending(self) -> int:
        """Operations that were begun and not waited for."""
        return len(self._pending)

    # -- operations -----------------------------------------------------------------------------------------------

    def all_gather(self, layer: str, own: torch.Tensor, shapes: Sequence[Shape]) -> Arrival:
        """Give everybody what everybody has.

        Args:
            layer: Whom it is for.
            own: Of this rank.
            shapes: Of each rank's. Where they differ all are padded to the largest, as collectives need.

        Returns:
            One tensor for each rank.
        """
        sizes = [_numel(shape) for shape in shapes]
        largest = max(sizes)
        flat = own.reshape(-1)
        if flat.numel() < largest:
            flat = torch.cat([flat, flat.new_zeros(largest - flat.numel())])
        flat = flat.contiguous()
        parts = flat.new_empty(self.size * largest)

        def read() -> list[torch.Tensor]:
            rows = parts.view(self.size, largest)
            return [rows[r, : sizes[r]].view(shapes[r]) for r in range(self.size)]

        others = (self.size - 1) * largest * flat.element_size()
        entry = self._enter("all_gather", layer, flat, sent=others, received=others)
        return self._begin(entry, lambda: self.transport.all_gather(parts, flat), flat, read)

    def halo(
        self, layer: str, to_above: torch.Tensor, to_below: torch.Tensor, from_above: Shape, from_below: Shape
    ) -> Arrival:
        """Give the ranks above and below what they need of ours; the picture's edges have nobody.

        Args:
            layer: Whom it is for.
            to_above: For the rank with the rows above ours.
            to_below: For the one below.
            from_above: Shape of what comes from above.
            from_below: Shape of what comes from below.

        Returns:
            What came from above and from below; at an edge a tensor without elements.
        """
        above, below = self.rank - 1, self.rank + 1
        sends, receives, came = [], [], {}
        for peer, gives, shape in ((above, to_above, from_above), (below, to_below, from_below)):
            if 0 <= peer < self.size:
                sends.append((peer, gives.reshape(-1).contiguous()))
                receives.append((peer, gives.new_empty(_numel(shape))))
                came[peer] = receives[-1][1].view(shape)

        def read() -> list[torch.Tensor]:
            return [came.get(peer, to_above.new_empty(0)) for peer in (above, below)]

        sent = sum(each.numel() * each.element_size() for _, each in sends)
        received = sum(each.numel() * each.element_size() for _, each in receives)
        entry = self._enter("halo", layer, None, sent=sent, received=received)
        return self._begin(entry, lambda: self.transport.exchange(sends, receives), sends, read)

    def all_reduce(self, layer: str, total: torch.Tensor) -> Arrival:
        """The sum over all ranks. Counted as what a ring sends: 2 (size - 1) / size of the tensor."""
        total = total.clone(memory_format=torch.contiguous_format)
        size = 2 * (self.size - 1) * total.numel() * total.element_size() // self.size
        entry = self._enter("all_reduce", layer, total, sent=size, received=size)
        return self._begin(entry, lambda: self.transport.all_reduce(total), total, lambda: [total])

    def agree(self, what: str, values: Sequence[int], *, device: torch.device | None = None) -> list[list[int]]:
        """Compare numbers, and the order of all operations so far, with those of all ranks. Waits for the device.

        Args:
            what: What the numbers are, for the message.
            values: Of this rank, each an int64.
            device: Where the group's tensors live.

        Raises:
            CommunicationError: They differ.
        """
        own = torch.tensor([self._order, *values], dtype=torch.int64, device=device)
        phase, self.phase = self.phase, "control"
        careful, self.careful = self.careful, False
        try:
            parts = self.all_gather(what, own, [tuple(own.shape)] * self.size).take()
        finally:
            self.phase, self.careful = phase, careful
        told = [part.tolist() for part in parts]
        different = [rank for rank in range(self.size) if told[rank] != told[self.rank]]
        if different:
            order = any(told[rank][0] != told[self.rank][0] for rank in different)
            found = "have not made the same calls in the same order" if order else f"do not have the same {what}"
            raise self.failed(
                f"ranks {self.rank} and {', '.join(map(str, different))} of '{self.name}' {found}. Every rank has to "
                "run the same pipeline with the same arguments, and a generator with the same seed."
            )
        return [each[1:] for each in told]

    # -- ends -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Wait for everything that is on its way: the end of a run.

        Raises:
            CommunicationError: Some of it does not come.
        """
        for arrival in tuple(self._pending):
            arrival.settle()

    def abandon(self) -> None:
        """After an exception: give what is on its way the chance to arrive, whatever becomes of it."""
        try:
            self.drain()
        except CommunicationError as error:
            logger.info("gave up what was on its way: %s", error)
        self._pending.clear()

    def failed(self, reason: str) -> CommunicationError:
        """Note a failure, after which nothing is sent any more; returns the error to raise."""
        self._failure = self._failure or reason
        self._pending.clear()
        return CommunicationError(self._failure)

    def note(self, what: str, layer: str) -> None:
        """Enter an event that is no operation of ours, if somebody looks."""
        if self.events is not None:
            self.events.append((what, "", layer, self.step))

    # -- inside ---------------------------------------------------------------------------------------------------

    def arrived(self, arrival: Arrival, entry: Entry, handle: Handle) -> None:
        """Wait for one operation; only :class:`Arrival` calls this."""
        self._pending.pop(arrival, None)
        if self._failure is not None:
            raise CommunicationError(self._failure)
        if self.events is not None:
            self.events.append(("wait", entry.op, entry.layer, entry.step))
        try:
            handle.wait()
        except RuntimeError as error:
            raise self._lost(entry, error) from error

    def _enter(self, op: str, layer: str, tensor: torch.Tensor | None, *, sent: int, received: int) -> Entry:
        if self._failure is not None:
            raise CommunicationError(self._failure)
        entry = Entry(op, layer, self.step, self.phase)
        # What each rank of a halo sends depends on where it is, so only collectives have a common size.
        size = "" if tensor is None else f"{tensor.numel()}{tensor.dtype}"
        label = f"{op}|{layer}|{self.step}|{self.phase}|{size}"
        if self.careful:
            self.agree(f"next operation ({label})", [zlib.crc32(label.encode())])
        if self.phase != "control":
            self._order = zlib.crc32(label.encode(), self._order)
        self.traffic.add(entry, sent=sent, received=received)
        return entry

    def _begin(
        self, entry: Entry, start: Callable[[], Handle], sent: object, read: Callable[[], list[torch.Tensor]]
    ) -> Arrival:
        if self.events is not None:
            self.events.append(("post", entry.op, entry.layer, entry.step))
        try:
            handle = start()
        except RuntimeError as error:
            raise self._lost(entry, error) from error
        arrival = Arrival(self, entry, handle, sent, read)
        self._pending[arrival] = entry
        return arrival

    def _lost(self, entry: Entry, error: RuntimeError) -> CommunicationError:
        said = " ".join(str(error).split())
        return self.failed(
            f"rank {self.rank} of {self.size} ('{self.name}') lost the others at step {entry.step}, in "
            f"'{entry.op}' of '{entry.layer}': a rank has ended, hangs, or is not in step with the rest. This run is "
            f"over; look at the first error of the other ranks. torch.distributed said: {said[:160]}"
        )


def _numel(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def checksum(latents: Any) -> int:
    """One number that differs where latents differ in a bit or its place. Waits for the device."""
    total = 0
    for tensor in leaves(latents):
        raw = tensor.detach().contiguous().view(torch.uint8).flatten()
        if raw.device.type == "cpu":
            total = zlib.crc32(raw.numpy().tobytes(), total)
        else:
            places = torch.arange(len(raw), device=raw.device) % 8191 + 1
            total = (total * 31 + int((raw.long() * places).sum())) % 2**61
    return total
