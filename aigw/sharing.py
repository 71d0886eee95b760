"""Client connections shared evenly among the workers: who has too many passes a new one on.

Not here: the listening sockets (sockets), and what is spoken on a connection (proxy).

The kernel chooses among the sockets of a SO_REUSEPORT group by a hash of the addresses, so it is as
fair as dice: of 64 connections to two workers one in ten throws gives less than 40:60, of 10 one in
500 gives 0:10, and with keep-alive a bad throw lasts as long as the clients.  A better function in
the kernel would need a counter, which only a privileged process may load (eBPF; the classic program
that anybody may attach has no memory, only the same dice).  And to stop accepting for a while would
let those wait whom the kernel has already put into our queue.

The idea (HAProxy's and Envoy's, between processes here): each accepts what the kernel gives it, and
at once passes on what a sibling should have: the descriptor goes through the sibling's **inbox**, a
pair of Unix sockets that the master has made for each slot.  That is a queue like that of a
listener and treated like one: it stays when a worker dies, its successor or an adopter empties it.
Nobody waits for anybody.  A connection is passed on before its first byte is read, and only once.

Measured 2026-11-23 with two workers, connections opened at once or one by one: of 120 times 64 the
worst was 28:36 (before: 23:41), of 120 times 10 it was 4:6 (1:9), 2 were always 1:1 (half of the
times 0:2).  It costs nothing per request, only for each connection that is passed on.  So
that short ones, whose number changes by chance all the time, are not passed to and fro, a worker
may have one more than a sibling and an eighth of what that has.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import socket
import termios
from array import array
from collections.abc import Callable
from typing import cast

WORD_BYTES = 8
SLACK_PART = 8

Factory = Callable[[], asyncio.BaseProtocol]


class Inboxes:
    """An inbox for each slot and what the slot's worker tells; made before the fork, for all.

    `held` has a word for each slot, written by its worker alone: the connections that it has and
    one, or 0 where nobody takes any.
    """

    def __init__(self, slots: int) -> None:
        pairs = [socket.socketpair() for _ in range(slots)]
        for end in (end for pair in pairs for end in pair):
            end.setblocking(False)
        self.readers = [reader for reader, _ in pairs]
        self.writers = [writer for _, writer in pairs]
        self.held = memoryview(mmap.mmap(-1, slots * WORD_BYTES)).cast("q")

    def waiting(self, slot: int) -> int:
        """Connections in the inbox: there is a byte for each."""
        count = array("i", [0])
        fcntl.ioctl(self.readers[slot], termios.FIONREAD, count)
        return count[0]

    def close(self) -> None:
        """Close the ends that this process holds."""
        for end in (*self.readers, *self.writers):
            end.close()


class Sharing:
    """One worker's part.  `count` says how many connections it has."""

    def __init__(self, inboxes: Inboxes, slot: int, count: Callable[[], int]) -> None:
        self._inboxes = inboxes
        self._slot = slot
        self._count = count
        self._takes = False  # a new connection may come from a sibling, or go to one
        self._read: dict[int, Factory] = {}  # the inboxes that are emptied here
        self._coming: set[asyncio.Task[None]] = set()

    def empty(self, slot: int, protocol_factory: Factory) -> None:
        """Take the connections that come through this inbox; with its own it takes part."""
        self._read[slot] = protocol_factory
        reader = self._inboxes.readers[slot]
        asyncio.get_running_loop().add_reader(reader, self._receive, slot)
        self._takes |= slot == self._slot
        self.tell()

    def leave_alone(self, slot: int) -> None:
        """Another worker empties it from now on."""
        if self._read.pop(slot, None) is not None:
            asyncio.get_running_loop().remove_reader(self._inboxes.readers[slot])

    def readers(self) -> list[socket.socket]:
        """The inboxes that are emptied here."""
        return [self._inboxes.readers[slot] for slot in self._read]

    def retire(self) -> None:
        """Neither be given connections from now on nor pass any on."""
        if self._takes:
            self._takes = False
            self._inboxes.held[self._slot] = 0

    def tell(self) -> int:
        """Let the siblings know how many connections there are here; returns the number."""
        count = self._count() + len(self._coming)
        if self._takes:
            self._inboxes.held[self._slot] = count + 1
        return count

    # ---- giving

    def arrivals(self, protocol_factory: Factory) -> Factory:
        """What a listener makes for each connection, to be kept or passed on."""
        if len(self._inboxes.held) == 1:  # nobody to share with
            return protocol_factory
        return lambda: _Arrival(self, protocol_factory)

    def passes_on(self, transport: asyncio.BaseTransport) -> bool:
        """Has the connection gone to a sibling?  Then its transport is not to be used any more."""
        slot = self._whose_turn()
        if slot is None:
            return False
        fd = transport.get_extra_info("socket").fileno()
        try:
            socket.send_fds(self._inboxes.writers[slot], [b"+"], [fd])
        except OSError:  # the inbox is full, or the limit of descriptors on their way is reached
            return False
        return True

    def _whose_turn(self) -> int | None:
        """The slot that has the fewest, where these are fewer than here by more than the slack."""
        if not self._takes:
            return None
        ours, inboxes = self._count() + len(self._coming) + 1, self._inboxes
        best, fewest = None, ours - 1
        for slot, word in enumerate(inboxes.held):
            if 0 < word <= fewest and slot != self._slot:
                theirs = word - 1 + inboxes.waiting(slot)
                if theirs < fewest:
                    best, fewest = slot, theirs
        return best if ours > fewest + 1 + fewest // SLACK_PART else None

    # ---- receiving

    def _receive(self, slot: int) -> None:
        reader = self._inboxes.readers[slot]
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, fds, _, _ = socket.recv_fds(reader, 1, 1)
            except BlockingIOError:
                return
            for fd in fds:  # none: our limit of open files was reached, the connection is closed
                task = loop.create_task(self._welcome(fd, self._read[slot]))
                self._coming.add(task)
                task.add_done_callback(self._coming.discard)
            self.tell()

    async def _welcome(self, fd: int, protocol_factory: Factory) -> None:
        connection = socket.socket(fileno=fd)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(protocol_factory, connection)
        except OSError:
            connection.close()


class _Arrival(asyncio.Protocol):
    """Stands for a connection that was just accepted until it is known whose it is."""

    __slots__ = ("_protocol_factory", "_sharing")

    def __init__(self, sharing: Sharing, protocol_factory: Factory) -> None:
        self._sharing = sharing
        self._protocol_factory = protocol_factory

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._sharing.passes_on(transport):
            cast(asyncio.Transport, transport).abort()  # our descriptor; the sibling has its own
            return
        protocol = self._protocol_factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._sharing.tell()
