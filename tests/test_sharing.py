"""Connections passed from one worker to another: two shares in one process, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import uvloop

from aigw.sharing import Inboxes, Sharing
from aigw.sockets import Accepting, bind_listeners, close_listeners


class Share:
    """A worker as far as sharing is concerned: it greets with its slot and counts."""

    def __init__(self, inboxes: Inboxes, slot: int, listeners: list[list[socket.socket]]) -> None:
        self.slot = slot
        self.open: set[Greeter] = set()
        self.sharing = Sharing(inboxes, slot, lambda: len(self.open))
        self.accepting = Accepting(listeners, lambda: Greeter(self), self.sharing)


class Greeter(asyncio.Protocol):
    def __init__(self, share: Share) -> None:
        self.share = share

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.share.open.add(self)
        no_delay = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY
        )
        self.transport.write(b"%d%d\n" % (self.share.slot, no_delay))

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.share.open.discard(self)


@contextmanager
def shares(slots: int = 2) -> Iterator[tuple[list[Share], Inboxes, tuple[str, int]]]:
    """So many workers, and an address whose connections the kernel all gives to the first."""
    inboxes = Inboxes(slots)
    listeners = [bind_listeners(["127.0.0.1:0"], 1)[0] for _ in range(slots)]
    try:
        yield (
            [Share(inboxes, slot, listeners) for slot in range(slots)],
            inboxes,
            listeners[0][0].getsockname(),
        )
    finally:
        close_listeners(listeners)
        inboxes.close()


class Clients:
    """Clients that are connected one after the other, and by whom they were greeted."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self, count: int) -> str:
        greetings = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection(*self.address)
            self.streams.append((reader, writer))
            greeting = (await reader.readline()).decode()
            assert greeting[1:] == "1\n", "TCP_NODELAY"
            greetings.append(greeting[0])
        return "".join(greetings)

    async def close(self) -> None:
        for reader, writer in self.streams:
            writer.write(b"still there?\n")
            assert await reader.readline() == b"still there?\n"
            writer.close()
            await writer.wait_closed()


def play(scene: object) -> None:
    async def patient() -> None:
        async with asyncio.timeout(20):
            await scene  # type: ignore[misc]

    uvloop.run(patient())


@pytest.mark.parametrize(("slots", "greetings"), [(2, "01" * 6), (3, "012" * 4)])
def test_connections_are_shared_evenly(slots: int, greetings: str) -> None:
    async def scene() -> None:
        with shares(slots) as (workers, _, address):
            for worker in workers:
                await worker.accepting.adopt(worker.slot)
            clients = Clients(address)
            assert sorted(await clients.connect(12)) == sorted(greetings)
            await clients.close()
            for worker in workers:
                worker.accepting.leave()

    play(scene())


def test_a_burst_is_shared_evenly() -> None:
    async def scene() -> None:
        with shares() as (workers, _, address):
            for worker in workers:
                await worker.accepting.adopt(worker.slot)
            clients = Clients(address)
            together = [clients.connect(1) for _ in range(64)]
            greetings = "".join(await asyncio.gather(*together))
            assert 26 <= greetings.count("0") <= 38
            await clients.close()
            for worker in workers:
                worker.accepting.leave()

    play(scene())


def test_who_takes_none_is_given_none() -> None:
    """A sibling that has not begun, and one that drains."""

    async def scene() -> None:
        with shares() as (workers, inboxes, address):
            first, second = workers
            await first.accepting.adopt(0)
            clients = Clients(address)
            assert await clients.connect(4) == "0000"
            await second.accepting.adopt(1)
            assert await clients.connect(2) == "11"
            second.sharing.retire()
            assert await clients.connect(4) == "0000"
            assert list(inboxes.held) == [9, 0]
            await clients.close()
            for worker in workers:
                worker.accepting.leave()
            assert list(inboxes.held) == [0, 0]

    play(scene())


def test_what_waits_in_an_inbox_is_left_to_the_successor() -> None:
    async def scene() -> None:
        with shares() as (workers, inboxes, address):
            first, second = workers
            await first.accepting.adopt(0)
            inboxes.held[1] = 1  # it was killed and could not take it back
            clients = Clients(address)
            assert await clients.connect(1) == "0"
            connecting = asyncio.create_task(clients.connect(1))
            while not inboxes.waiting(1):
                await asyncio.sleep(0)
            await second.accepting.adopt(1)
            assert await connecting == "1"
            await clients.close()
            for worker in workers:
                worker.accepting.leave()

    play(scene())


def test_with_a_full_inbox_connections_are_kept() -> None:
    async def scene() -> None:
        with shares() as (workers, inboxes, address):
            await workers[0].accepting.adopt(0)
            inboxes.held[1] = 1
            with pytest.raises(BlockingIOError):
                while True:
                    inboxes.writers[1].send(b"+" * 65536)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Inboxes, "waiting", lambda *_: 0)
                clients = Clients(address)
                assert await clients.connect(3) == "000"
                await clients.close()
            workers[0].accepting.leave()

    play(scene())


def test_siblings_hear_of_connections_that_ended() -> None:
    async def scene() -> None:
        with shares() as (workers, inboxes, address):
            await workers[0].accepting.adopt(0)
            clients = Clients(address)
            await clients.connect(3)
            assert inboxes.held[0] == 4
            await clients.close()
            while workers[0].open:
                await asyncio.sleep(0)
            workers[0].accepting.tell_siblings()
            assert inboxes.held[0] == 1
            workers[0].accepting.leave()

    play(scene())


def test_a_single_worker_has_nobody_to_share_with() -> None:
    inboxes = Inboxes(1)
    assert Sharing(inboxes, 0, lambda: 0).arrivals(asyncio.Protocol) is asyncio.Protocol
    inboxes.close()
