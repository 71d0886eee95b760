"""Measuring one contender once: a load, a life, a split of connections."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import msgspec
import uvloop

from bench.cpu import cpu_time, memory, tree
from bench.load import LoadPlan, run_load
from bench.outcome import Life, Run
from bench.peers.peer import Pace, Peer
from bench.peers.run import KINDS, Running, ask_over, make_site, running_peer
from bench.report import LoadResult
from bench.request import RequestPlan
from bench.scenarios import FIELD_SECONDS, SMALL, STEADY, Scenario

WARM_S = 0.4
GRACE_S = 20.0  # a slow peer needs seconds for 64 requests at once
SPLIT_CONNECTIONS = 64
STREAM_SPACING_MS = 25  # of those whose memory is measured: they last 2.5 s
STREAMS_OPEN_S = 1.2  # after this all of them run, and none has ended


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A running contender, and what it may be asked."""

    here: Running
    pace: Pace
    kinds: tuple[str, ...]
    refuses: int
    mock_pid: int  # of the upstream

    @property
    def name(self) -> str:
        return self.here.name


def load_plan(subject: Subject, scenario: Scenario, seconds: float) -> LoadPlan:
    here, pace = subject.here, subject.pace
    plan = LoadPlan(
        host="127.0.0.1",
        port=here.port,
        request=here.request(scenario.request),
        connections=scenario.connections,
        seconds=seconds * scenario.times,
        expect=expected(subject, scenario),
        grace_s=GRACE_S,
    )
    changes: dict[str, object] = {}
    if scenario.steady:
        changes |= {"rate": pace.rate}
    if scenario.request.stream:
        changes |= {"connections": pace.streams, "spread_s": scenario.spread_s}
    if scenario.six_kinds:
        mix = tuple(here.request(KINDS[kind]) for kind in subject.kinds)
        changes |= {"mix": mix, "requests": scenario.requests, "seconds": FIELD_SECONDS}
    return msgspec.structs.replace(plan, **changes)


def expected(subject: Subject, scenario: Scenario) -> tuple[int, ...]:
    if scenario.name == "401":
        return (subject.refuses,)
    # A slow key has its two requests a second.
    return (429, 200) if scenario.name == "429" else (200,)


def measure(subject: Subject, scenario: Scenario, seconds: float, repetition: int) -> Run:
    plan = load_plan(subject, scenario, seconds)
    pid, mock_pid = subject.here.pid, subject.mock_pid
    before, mock_before, own_before_s = cpu_time(pid), cpu_time(mock_pid), time.process_time()
    began_s = time.monotonic()
    load = uvloop.run(run_load(plan))
    wall_s = time.monotonic() - began_s
    own = time.process_time() - own_before_s
    used, mock = cpu_time(pid).since(before), cpu_time(mock_pid).since(mock_before)
    requests = max(1, load.answers + sum(load.errors.values()))
    return Run(
        contender=subject.name,
        scenario=scenario.name,
        repetition=repetition,
        cpu_us=round(used.total_s / requests * 1e6, 2),
        user_us=round(used.user_s / requests * 1e6, 2),
        busy=round(used.total_s / wall_s, 3),
        mock_busy=round(mock.total_s / wall_s, 3),
        generator_busy=round(own / wall_s, 3),
        pss_bytes=memory(pid).pss_bytes,
        load=load if scenario.name == STEADY else without_curves(load),
    )


def without_curves(load: LoadResult) -> LoadResult:
    """Only one scenario is drawn as curves, and they are most of a result's size."""
    parts = {name: getattr(load, name) for name in ("latency", "first_byte", "chunk_delay", "late")}
    bare = {name: msgspec.structs.replace(part, curve=()) for name, part in parts.items() if part}
    return msgspec.structs.replace(load, **bare)


def warm(subject: Subject, scenario: Scenario) -> None:
    """Some requests of that kind, not counted."""
    plan = load_plan(subject, scenario, WARM_S)
    few = {"requests": 50 * plan.connections, "spread_s": 0.0, "seconds": WARM_S}
    uvloop.run(run_load(msgspec.structs.replace(plan, **few)))


# --- start and memory


def live(
    peer: Peer, name: str, folder: Path, upstream_port: int, peers: Path | None, repetition: int
) -> Life:
    """Three processes after the other: one to load, one for idle connections, one for streams.

    So no figure holds what an allocator kept from another. Raises PeerError.
    """
    starts, idle = [], []
    found: dict[str, float] = {}
    folder.mkdir(mode=0o755)
    for part in ("load", "connections", "streams"):
        site = make_site(folder / part, upstream_port)
        with running_peer(peer, site, peers, name) as here:
            starts.append(here.start_s)
            idle.append(memory(here.pid).pss_bytes)
            uvloop.run(run_load(simple_load(here, connections=2, requests=50)))
            before = memory(here.pid).pss_bytes
            if part == "load":
                uvloop.run(run_load(simple_load(here, connections=64, seconds=1.5)))
                found[part] = memory(here.pid).pss_bytes
            elif part == "connections":
                count = peer.pace.idle_connections
                found[part] = (with_idle_connections(here, count) - before) / count
            else:
                count = peer.pace.streams
                found[part] = (uvloop.run(with_streams(here, count)) - before) / count
    return Life(
        contender=name,
        repetition=repetition,
        start_s=round(sorted(starts)[1], 4),
        idle_bytes=sorted(idle)[1],
        loaded_bytes=round(found["load"]),
        connection_bytes=round(found["connections"]),
        stream_bytes=round(found["streams"]),
    )


def simple_load(
    here: Running, connections: int, requests: int = 0, seconds: float = 5.0
) -> LoadPlan:
    return LoadPlan(
        host="127.0.0.1",
        port=here.port,
        request=here.request(SMALL),
        connections=connections,
        requests=requests,
        seconds=seconds,
    )


def open_connections(stack: ExitStack, here: Running, count: int) -> None:
    """So many keep-alive connections that have had one answer each."""
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", here.port, timeout=30)
        stack.callback(connection.close)
        ask_over(connection, here, SMALL)


def with_idle_connections(here: Running, count: int) -> int:
    """Memory while they are open."""
    with ExitStack() as stack:
        open_connections(stack, here, count)
        return memory(here.pid).pss_bytes


async def with_streams(here: Running, count: int) -> int:
    """Memory while so many streams run."""
    request: RequestPlan = SMALL._replace(stream=True, spacing_ms=STREAM_SPACING_MS)
    plan = LoadPlan(
        host="127.0.0.1",
        port=here.port,
        request=here.request(request),
        connections=count,
        requests=count,
        seconds=30.0,
    )
    load = asyncio.create_task(run_load(plan))
    await asyncio.sleep(STREAMS_OPEN_S)
    held = memory(here.pid).pss_bytes
    await load
    return held


# --- how connections are shared out


def split(here: Running) -> tuple[int, ...]:
    """How many of 64 connections each process of the tree holds that holds any."""
    with ExitStack() as stack:
        open_connections(stack, here, SPLIT_CONNECTIONS)
        inodes = established(here.port)
        held: Counter[int] = Counter()
        for pid in tree(here.pid):
            for link in (Path("/proc") / str(pid) / "fd").iterdir():
                try:
                    target = str(link.readlink())
                except OSError:  # closed meanwhile
                    continue
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    held[pid] += 1
    return tuple(sorted(held.values(), reverse=True))


def established(port: int) -> set[str]:
    """The inodes of the connections which that port has accepted (/proc/net/tcp)."""
    wanted = f":{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {row[9] for row in rows if row[1].endswith(wanted) and row[3] == "01"}
