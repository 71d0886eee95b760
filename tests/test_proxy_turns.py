"""Turns of a busy loop: what is only noted when it comes, and dealt with at the end of the turn.

A `Stage` is one worker's proxy between stand-in transports, and the test is its loop.  Random
schedules of all that clients and upstreams can do are played three times: read by h11 and told as a
story, on the express lane at once, and there gathered.  What everybody saw, what was recorded and
what was counted must be the same each time, and nothing may be taken twice or kept.  Below them
stand the faults that were found, each by itself.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import orjson
import pytest
from conftest import take_lane
from conversation import Gateway, Peer, Upstream, converse, ok, settings_of, toml

from aigw.memory import BucketTable, CounterRegion, HeldTable, Memory
from aigw.observe.access_log import AccessLog
from aigw.observe.metrics import DURATION, EXCHANGE, FIRST_BYTE, Totals, WorkerMetrics
from aigw.policy import compile_policy, load_policy
from aigw.policy.limits import Limits
from aigw.proxy.client import ClientConnection
from aigw.proxy.client_state import State
from aigw.proxy.deadlines import Sweeper
from aigw.proxy.express import Express
from aigw.proxy.known import KnownRequest
from aigw.proxy.lane import Lane
from aigw.proxy.services import OVERLOADED, Services
from aigw.upstreams.connection import UpstreamConnection

# One key for each client: no limit, a bucket, a slot, a bucket soon empty, a bucket and a slot.
KEYS = (
    "",
    "rps = 1000\nburst = 1000",
    "max_parallel_requests = 1",
    "rpm = 1\nburst = 3",
    "rps = 1000\nmax_parallel_requests = 9",
)
REFUSED_KEY = 3
BODY = b'{"model":"m","messages":[]}'
WARM_CONNECTIONS = 12


class Loop:
    """Stands for the event loop: what is called soon is called at the end of the turn."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Any:
        return asyncio.get_running_loop().call_later(3600, callback)

    def end_turn(self) -> None:
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()

    def settle(self) -> None:
        while self._soon:
            self.end_turn()


class Wire(asyncio.Transport):
    """A transport that keeps what is written; an end is told at the end of the turn."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop
        self.protocol: Any = None
        self.written = b""
        self.fault: Exception | None = None
        self.is_over = False
        self.is_resetting = False  # what is written now was due before, so it counts as seen
        self.is_paused = False
        self.fills = False  # each write fills its buffer, which is then empty in the next turn
        self.has_ended = False  # the other side has

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.fault is not None:
            raise self.fault
        if self.is_over and not self.is_resetting:
            return
        self.written += data
        if self.fills:
            self.protocol.pause_writing()
            self._loop.call_soon(self.protocol.resume_writing)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_over

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def can_write_eof(self) -> bool:
        return False

    def abort(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._loop.call_soon(lambda: self.protocol.connection_lost(None))

    close = abort

    # ---- what the other side does ----

    def sends(self, data: bytes) -> None:
        if not self.is_over and not self.has_ended:
            self.protocol.data_received(data)

    def ends(self) -> None:
        if not self.is_over and not self.has_ended:
            self.has_ended = True
            if not self.protocol.eof_received():
                self.close()

    def resets(self) -> None:
        if not self.is_over:
            self.is_over = self.is_resetting = True
            self.protocol.connection_lost(ConnectionResetError("reset"))
            self.is_resetting = False


class Stage:
    """See the head of the file."""

    def __init__(self, text: str):
        self.text = text
        self.memory = memory = Memory.create(1)
        memory.used = 1
        self.publish()
        self.metrics = WorkerMetrics(CounterRegion(memory, 0))
        self.limits = Limits(BucketTable(memory, 0), HeldTable(memory, 0))
        self.records: list[dict[str, Any]] = []
        log = AccessLog("off", lambda lines: None)
        log.enabled = True
        log.append = lambda line: self.records.append(orjson.loads(line))  # type: ignore[method-assign]
        self.services = services = Services(memory, 0, self.limits, self.metrics, log)
        self.loop = Loop()
        services.loop = cast(Any, self.loop)
        version, blob = memory.policy.read()
        services.use_policy(version, load_policy(blob))
        services.connection_limit = 1000
        self.sweeper = Sweeper(services, lambda now_s: None)
        self.upstreams: list[Wire] = []

    def publish(self) -> None:
        blob = compile_policy(settings_of(self.text), self.memory, time.monotonic())
        self.memory.policy.publish(blob)

    def client(self) -> Wire:
        wire = Wire(self.loop)
        wire.protocol = ClientConnection(self.services)
        wire.protocol.connection_made(wire)
        return wire

    @property
    def member(self) -> Any:
        return self.services.groups()[0].members[0]

    def warm(self, number: int = WARM_CONNECTIONS) -> None:
        """See to so many idle connections."""
        while len(self.member.idle) < number:
            wire = Wire(self.loop)
            wire.protocol = UpstreamConnection(self.member, time.monotonic())
            wire.protocol.connection_made(wire)
            self.upstreams.append(wire)
            self.member.give_idle(wire.protocol, time.monotonic())

    def asked(self) -> list[tuple[Wire, int, bytes, bytes]]:
        """What upstreams were sent: where, as the how manyth there, its mark, and its octets, as
        far as they came."""
        found = []
        for wire in self.upstreams:
            for nth, octets in enumerate(wire.written.split(b"POST /")[1:], 1):
                mark = re.search(rb"X-Request-ID: (\S+)\r\n", octets)
                found.append((wire, nth, mark.group(1) if mark else b"", octets))
        return found

    def value(self, name: str, *labels: str) -> int:
        return Totals([CounterRegion(self.memory, 0)]).value(name, *labels)

    def check(self) -> None:
        """Whoever is under way has one connection, one slot and one place in each gauge."""
        serving: list[UpstreamConnection] = []
        slots = dict.fromkeys((key.held_row for key in self.services.policy.keys.values()), 0)
        number = inflight = 0
        for client in self.services.connections:
            lane = client._lane
            if lane is not None and lane.sent is not None:
                assert client._exchange is None
                assert lane.sent[0].lane is lane
                serving.append(lane.sent[0])
                number, inflight = number + 1, inflight + 1
                slots[lane.sent[1].claim.held_row] += 1
            elif client._exchange is not None:
                exchange = client._exchange
                number += 1
                if exchange.connection is not None:
                    assert exchange.connection.owner is exchange
                    serving.append(exchange.connection)
                inflight += exchange.member is not None
                if exchange.claim is not None:
                    slots[exchange.claim.held_row] += 1
        idle = [c for c in self.member.idle if not c.transport.is_closing()]
        known = [id(connection) for connection in (*serving, *idle)]
        assert len(set(known)) == len(known), "a connection serves two"
        is_open = {id(wire.protocol) for wire in self.upstreams if not wire.is_over}
        assert set(known) == is_open, "a connection is lost"
        assert all(c.waiting is c.lane is c.owner is None for c in idle)
        assert self.metrics.words[self.services.in_flight] == number
        assert self.member.inflight == inflight
        for row, held in slots.items():
            assert row < 0 or self.limits.held.total(row) == held

    def counted(self) -> dict[object, object]:
        """All counters, and of the histograms how many there are."""
        totals = Totals([CounterRegion(self.memory, 0)])
        counted: dict[object, object] = {}
        for name, series in totals.words.items():
            for labels, words in series.items():
                if name == EXCHANGE:
                    counted[name, labels] = sum(words[DURATION:FIRST_BYTE])
                elif name != "express" and any(words):
                    counted[name, labels] = words
        return counted


# ---- any schedule --------------------------------------------------------------------------------


def request_of(key: int | str, mark: str) -> bytes:
    return (
        b"POST /v1/chat HTTP/1.1\r\nHost: gw\r\nX-API-Key: k%b\r\nX-Request-ID: %b\r\n"
        b"X-User-ID: u%b\r\nContent-Length: %d\r\n\r\n%b"
    ) % (str(key).encode(), mark.encode(), mark.encode(), len(BODY), BODY)


class Player:
    """Plays one random schedule; the same numbers make the same schedule on each lane."""

    def __init__(self, stage: Stage, seed: int):
        self.stage = stage
        self.random = random.Random(seed)
        self.clients = [stage.client() for _ in KEYS]
        self.is_closing = False
        self.left = [b""] * len(KEYS)  # of a request that was begun
        self.sent = [0] * len(KEYS)
        self.answered: dict[Wire, int] = {}
        self.rest: dict[bytes, bytes] = {}  # of an answer that was begun

    def play(self, turns: int) -> None:
        for number in range(turns):
            self.stage.warm()
            if number == turns - 3:
                self._close_doors()
            for who, client in enumerate(self.clients):
                if self.random.random() < 0.5 and client.is_over:
                    self.clients[who], self.left[who] = self.stage.client(), b""
            # Upstreams answer what had come whole when the turn began.
            asked = {
                mark: (wire, nth)
                for wire, nth, mark, octets in self.stage.asked()
                if octets.endswith(BODY)
            }
            for _ in range(self.random.randrange(1, 12)):
                who, part = self.random.randrange(len(KEYS)), self.random.random()
                act = self.random.choice(ACTS)
                if act in CLIENT_ACTS:
                    self._client_does(act, who, part)
                elif act == "publish":
                    self.stage.publish()
                else:
                    self._upstream_does(act, who, part, asked)
            if self.random.random() < 0.2:
                self._sweep()
            self.stage.loop.settle()
            self.stage.check()
        for client in self.clients:
            client.resets()
        self.stage.loop.settle()
        self.stage.check()

    def _sweep(self) -> None:
        self.stage.sweeper._sweep()
        self.stage.sweeper.stop()

    def _close_doors(self) -> None:
        """First nobody is held any more, whom a story would have admitted already."""
        services = self.stage.services
        self._sweep()
        self.is_closing = True
        if self.random.random() < 0.5:
            services.draining = True
        else:
            services.refusing = OVERLOADED

    def _client_does(self, act: str, who: int, part: float) -> None:
        client = self.clients[who]
        if act in ("fin", "rst"):
            client.ends() if act == "fin" else client.resets()
            return
        data = self.left[who]
        if not data:
            data = self._next_request("nobody" if act == "wrong" else who, who)
            if act == "two":
                data += self._next_request(who, who)
        cut = len(data)
        if who == REFUSED_KEY or self.is_closing:
            pass  # who is refused before all has come is refused otherwise
        elif act == "part":
            cut = 1 + int(part * (len(data) - 1))
        elif act == "head" and b"\r\n\r\n" in data:
            cut = data.index(b"\r\n\r\n") + 4
        self.left[who] = data[cut:]
        client.sends(data[:cut])

    def _next_request(self, key: int | str, who: int) -> bytes:
        self.sent[who] += 1
        return request_of(key, f"{who}-{self.sent[who]}")

    def _upstream_does(
        self, act: str, who: int, part: float, asked: dict[bytes, tuple[Wire, int]]
    ) -> None:
        marks = [b"%d-%d" % (who, number) for number in range(self.sent[who], 0, -1)]
        mark = next((mark for mark in marks if mark in asked), None)
        if mark is None:
            return
        wire, nth = asked[mark]
        if mark in self.rest:
            wire.sends(self.rest.pop(mark))
        elif self.answered.get(wire, 0) >= nth:
            return
        self.answered[wire] = nth
        if act in ("lost", "dead"):
            wire.ends() if act == "lost" else wire.resets()
            return
        answer = ok(b"to %b" % mark, b"Server: s\r\n")
        if act == "chunked":
            answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        cut = 1 + int(part * (len(answer) - 1)) if act == "pieces" else len(answer)
        wire.sends(answer[:cut])
        if answer[cut:]:
            self.rest[mark] = answer[cut:]
        if act == "stray":
            wire.sends(ok(b"nobody's"))
        elif act == "malformed":
            wire.sends(b"\x00")
        elif act == "answer-fin":
            wire.ends()
        elif act == "answer-rst":
            wire.resets()


CLIENT_ACTS = ("whole", "whole", "whole", "two", "head", "part", "wrong", "fin", "rst")
UPSTREAM_ACTS = (
    *("plain", "plain", "plain", "plain", "chunked", "pieces", "stray", "malformed"),
    *("lost", "dead", "answer-fin", "answer-rst"),
)
ACTS = (*CLIENT_ACTS, *UPSTREAM_ACTS, "publish")

# What differs each time.
OWN = re.compile(rb"(?<=\r\n)(?:(?:x-aigw-request-id|x-request-id: req_|Date).*?\r\n)")


def seen(text: str, seed: int, turns: int = 14) -> tuple[object, ...]:
    """What everybody saw of one schedule."""
    stage = Stage(text)
    player = Player(stage, seed)
    if not stage.services.express._gathers:
        stage.services.express.look_at_turn(0)  # as after a turn with enough answers
    everybody = player.clients.copy()
    made = stage.client
    stage.client = lambda: everybody.append(client := made()) or client  # type: ignore
    player.play(turns)
    ids = [record["request_id"] for record in stage.records]
    assert len(set(ids)) == len(ids)
    told = b"".join(client.written for client in everybody)
    assert {i.decode() for i in re.findall(rb"x-aigw-request-id: (\S+)", told)} <= set(ids)
    records = [
        {name: value for name, value in record.items() if name not in VARYING}
        for record in stage.records
    ]
    return (
        [OWN.sub(b"", client.written) for client in everybody],
        sorted((mark, octets) for _, _, mark, octets in stage.asked()),
        sorted(records, key=repr),
        stage.counted(),
    )


VARYING = {"time", "request_id", "ttfb_ms", "duration_ms", "overhead_us"}
TABLES = "".join(
    f'[[keys]]\nname = "k{n}"\nkey = "k{n}"\n{lines}\n' for n, lines in enumerate(KEYS)
)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"upstream": "pool = { max_connections = 1000 }", "route": "rps = 900\nburst = 20"},
    ],
    ids=["of keys", "of all kinds"],
)
@pytest.mark.usefixtures("clock")
def test_any_schedule_is_the_same_on_every_lane(limits: dict[str, str]) -> None:
    async def play() -> None:
        text = toml("http://127.0.0.1:1", top=TABLES, **limits)
        saw: dict[str, list[tuple[object, ...]]] = {}
        for lane in ("parsed", "express", "gathered"):
            with pytest.MonkeyPatch.context() as patch:
                take_lane(lane, patch)
                saw[lane] = [seen(text, seed) for seed in range(SCHEDULES)]
        for seed, (parsed, express, gathered) in enumerate(zip(*saw.values(), strict=True)):
            for part in range(len(parsed)):
                assert express[part] == parsed[part], (seed, "express")
                assert gathered[part] == parsed[part], (seed, "gathered")

    asyncio.run(play())


SCHEDULES = 8


# ---- each by itself ------------------------------------------------------------------------------


@contextmanager
def gathering(text: str = "", lane: str = "gathered") -> Iterator[Stage]:
    """A stage on this lane, to be used within a running loop."""
    with pytest.MonkeyPatch.context() as patch:
        take_lane(lane, patch)
        stage = Stage(text or toml("http://127.0.0.1:1", top=TABLES))
        stage.warm()
        stage.services.express._gathers = lane == "gathered"
        yield stage


def ask(stage: Stage, client: Wire, mark: str, key: int = 0) -> None:
    client.sends(request_of(key, mark))
    stage.loop.settle()


def serving(stage: Stage, mark: str) -> Wire:
    (wire,) = {wire for wire, _, found, _ in stage.asked() if found == mark.encode()}
    return wire


def exchange(stage: Stage, client: Wire, mark: str, key: int = 0) -> None:
    ask(stage, client, mark, key)
    serving(stage, mark).sends(ok(mark.encode()))
    stage.loop.settle()


@pytest.mark.parametrize("behind", [b"", ok(b"nobody's")], ids=["fin", "second answer"])
def test_what_follows_an_answer_in_its_turn_hurts_nobody(
    behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has read the answer, not yet what came behind it, and the next request waits."""
    take_lane("gathered", monkeypatch)
    sent: list[Peer] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            sent.append(peer)
            await peer.send(ok(b"one"))

    async def conversation() -> None:
        async with Upstream(script) as upstream, Gateway(toml(upstream)) as gateway:
            post = request_of("", "1").replace(b"k\r\n", b"user1\r\n")
            first, second = await gateway.client(), await gateway.client()
            for client in (first, second, first, second):
                await client.send(post)
                assert (await client.answer()).body == b"one"
            await gateway.settled()
            gateway.services.express._gathers = True
            take_answer = Express.take_answer

            def and_more(self: Express, connection: UpstreamConnection, data: bytes) -> None:
                """Let more come right after the answer was read, and a request be noted."""
                Express.take_answer = take_answer  # type: ignore[method-assign]
                take_answer(self, connection, data)
                peer = sent[-1].writer.get_extra_info("socket")
                file = socket.socket(fileno=socket.dup(peer.fileno()))
                file.send(behind) if behind else file.shutdown(socket.SHUT_WR)
                file.detach()
                (waiting,) = (c for c in gateway.services.connections if c.state is State.HEAD)
                waiting.data_received(post)

            monkeypatch.setattr(Express, "take_answer", and_more)
            await first.send(post)
            assert (await first.answer()).body == b"one"
            got = await second.answer()
            assert (got.status, got.body) == (200, b"one")

    converse(conversation())


def test_a_large_answer_does_not_pile_up_until_the_end_of_the_turn() -> None:
    async def play() -> None:
        with gathering() as stage:
            client = stage.client()
            exchange(stage, client, "0-1")
            ask(stage, client, "0-2")
            upstream = serving(stage, "0-2")
            head, before = ok(b"x" * 1000).partition(b"x")[0], len(client.written)
            upstream.sends(head)
            for _ in range(10):
                upstream.sends(b"x" * 100)
            assert len(client.written) > before + 1000
            stage.loop.settle()
            stage.check()

    asyncio.run(play())


@pytest.mark.usefixtures("clock")
def test_an_answer_that_came_before_its_deadline_is_looked_at_is_no_reason_to_close() -> None:
    async def play() -> None:
        with gathering() as stage:
            client = stage.client()
            exchange(stage, client, "0-1")
            ask(stage, client, "0-2")
            client.sends(request_of(0, "0-3"))  # pipelined
            serving(stage, "0-2").sends(ok(b"0-2"))
            now_s = client.protocol.deadline_s
            stage.services.tick(now_s)
            client.protocol.expire(now_s)
            stage.loop.settle()
            serving(stage, "0-3").sends(ok(b"0-3"))
            stage.loop.settle()
            assert client.written.endswith(b"0-3")
            assert not client.is_over

    asyncio.run(play())


def test_nothing_of_an_old_policy_or_a_lost_client_is_kept() -> None:
    def alive(kind: type) -> int:
        return sum(type(one) is kind for one in gc.get_objects())

    async def play() -> None:
        with gathering() as stage:
            gc.collect()
            gc.disable()
            known, lanes = alive(KnownRequest), alive(Lane)
            idle, busy, lost = (stage.client() for _ in range(3))
            for number, client in enumerate((idle, busy, lost)):
                exchange(stage, client, f"{number}-1")
            ask(stage, busy, "1-2")
            assert alive(Lane) == lanes + 3
            lost.resets()
            stage.publish()
            stage.services.follow_policy()
            assert alive(Lane) == lanes + 1
            serving(stage, "1-2").sends(ok())
            stage.loop.settle()
            stage.publish()
            stage.services.follow_policy()
            assert (alive(Lane), alive(KnownRequest)) == (lanes, known)
            stage.check()

    try:
        asyncio.run(play())
    finally:
        gc.enable()


@pytest.mark.parametrize("lane", ["express", "gathered"])
@pytest.mark.parametrize("is_split", [False, True])
def test_the_times_of_a_record_fit_together(
    lane: str, is_split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock takes a millisecond."""
    now_s = iter(range(1000, 10**9))
    monkeypatch.setattr("time.monotonic", lambda: next(now_s) / 1000)

    async def play() -> None:
        with gathering(lane=lane) as stage:
            clients = [stage.client() for _ in range(4)]
            for number, client in enumerate(clients):
                exchange(stage, client, f"{number}-1")
            stage.records.clear()
            for number, client in enumerate(clients):
                data = request_of(0, f"{number}-2")
                cut = len(data) - len(BODY) if is_split else len(data)
                client.sends(data[:cut])
            stage.loop.settle()
            if is_split:
                for client in clients:
                    client.sends(BODY)
                stage.loop.settle()
            for number in range(4):
                serving(stage, f"{number}-2").sends(ok())
            stage.loop.settle()
            assert len(stage.records) == 4
            for record in stage.records:
                assert 2 <= record["overhead_us"] / 1000 <= record["duration_ms"]
                assert 0 < record["ttfb_ms"] < record["duration_ms"]

    asyncio.run(play())


def a_fault(*_: object) -> Any:
    raise RuntimeError("a fault of our own")


FAULTS_OF_REQUESTS = {
    "digest": "aigw.proxy.express.sha256",
    "member": "aigw.upstreams.member.Member.take_idle",
    "limits": "aigw.proxy.express.Express._admit",
    "head": "aigw.proxy.known.KnownRequest.head_for",
}
FAULTS_OF_ANSWERS = {
    "standing": "aigw.proxy.lane.Lane.tell",
    "outcome": "aigw.proxy.lane.Lane.outcome_of",
    "pool": "aigw.upstreams.member.Member.give_idle",
    "end": "aigw.proxy.client.ClientConnection.answered",
}


@pytest.mark.parametrize("fault", [*FAULTS_OF_REQUESTS, "write"])
def test_a_fault_while_sending_ends_one_request(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        limits = {"upstream": "pool = { max_connections = 1000 }"}
        with gathering(toml("http://127.0.0.1:1", top=TABLES, **limits)) as stage:
            clients = [stage.client() for _ in range(4)]
            for number, client in enumerate(clients):
                exchange(stage, client, f"{number}-1", number)
            with once(fault, stage, monkeypatch, FAULTS_OF_REQUESTS):
                for number, client in enumerate(clients):
                    client.sends(request_of(number, f"{number}-2"))
                stage.loop.settle()
            asked = {mark for *_, mark, _ in stage.asked()}
            assert {b"1-2", b"2-2", b"3-2"} <= asked
            stage.check()
            for number in (1, 2, 3):
                serving(stage, f"{number}-2").sends(ok(b"two"))
            stage.loop.settle()
            assert all(client.written.endswith(b"two") for client in clients[1:])
            stage.check()
        assert "a fault of our own" not in caplog.text
        assert "internal error" in caplog.text

    asyncio.run(play())


@pytest.mark.parametrize("fault", [*FAULTS_OF_ANSWERS, "write"])
def test_a_fault_while_answering_ends_one_request_and_is_recorded(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        with gathering() as stage:
            clients = [stage.client() for _ in range(4)]
            # With a bucket, whose standing is told anew each time, and a user.
            for number, client in enumerate(clients):
                exchange(stage, client, f"{number}-1", 1)
            stage.records.clear()
            for number, client in enumerate(clients):
                client.sends(request_of(1, f"{number}-2"))
            stage.loop.settle()
            if fault == "write":
                clients[0].fault = RuntimeError("a fault of our own")
            with once(fault, stage, monkeypatch, FAULTS_OF_ANSWERS):
                for number in range(4):
                    serving(stage, f"{number}-2").sends(ok(b"two"))
                stage.loop.settle()
            assert all(client.written.endswith(b"two") for client in clients[1:])
            stage.check()
            assert len(stage.records) == 4
            assert stage.value("requests_in_flight") == 0
        assert "internal error" in caplog.text

    asyncio.run(play())


@contextmanager
def once(
    fault: str, stage: Stage, patch: pytest.MonkeyPatch, faults: dict[str, str]
) -> Iterator[None]:
    """The first call fails."""
    if fault not in faults:
        wire = stage.member.idle[-1].transport if faults is FAULTS_OF_REQUESTS else None
        if wire is not None:
            wire.fault = RuntimeError("a fault of our own")
        yield
        return
    module, _, name = faults[fault].rpartition(".")
    with patch.context() as inner:
        calls = iter([a_fault])
        owner = pytest.importorskip(module) if module.endswith("express") else None
        if owner is None:
            path, _, kind = module.rpartition(".")
            owner = getattr(pytest.importorskip(path), kind)
        real = getattr(owner, name)
        inner.setattr(owner, name, lambda *all: next(calls, real)(*all))
        if fault == "head":  # else the ready format is used
            for client in stage.services.connections:
                assert client._lane is not None
                client._lane.known.ready.clear()
        yield
