"""Faults of the server's own processes: its end, deaths, one that hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from tests.faults.counting import all_is_well, counted_once
from tests.faults.outcome import Outcome
from tests.faults.servers import Aigw, Server, Site
from tests.faults.traffic import (
    CLIENTS,
    WARM,
    Ledger,
    Size,
    Traffic,
    busy,
    outcome_of,
    waiting,
)
from tests.gateway_process import request, worker_of

# How long somebody waits for a worker that hangs before it counts as lost.
HANG_S = 10.0


# ---------------------------------------------------------------- the end


async def drain(server_of: type[Server], size: Size) -> Outcome:
    """SIGTERM (nginx: SIGQUIT) under clients who keep their connections, clients who don't, and
    streams: whoever was let in has a whole answer."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, server_of(Site((mock.port,))) as server:
        fresh = Traffic(server, ledger, Connection="close")
        await fresh.run(CLIENTS, least=WARM)
        kept, streams = await busy(server, ledger, 2.0)
        asked_s = time.monotonic()
        server.signal(server.drain_signal)
        await kept.gone()
        await fresh.gone()
        outcome = await outcome_of(ledger, kept, fresh, streams=streams)
        status = await server.ends()
        outcome.note = f"ended after {time.monotonic() - asked_s:.1f} s"
        outcome.expect(status == 0, f"exit status {status}")
        refused = kept.refused + fresh.refused
        outcome.expect(refused == 2 * CLIENTS, f"{refused} clients saw the port closed")
        if isinstance(server, Aigw):
            logged, answered = len(server.access()), kept.answered + fresh.answered + streams.whole
            outcome.expect(logged == answered, f"{logged} lines for {answered} answers")
        return outcome


# ---------------------------------------------------------------- deaths


async def kill_worker(server_of: type[Server], size: Size) -> Outcome:
    """kill -9: what it was answering falls, and nothing else; buckets and counters stay."""
    ledger = Ledger()
    keys = (("user1", ""), ("limited", "rpm = 1\nburst = 3"))
    async with (
        await ledger.upstream() as mock,
        server_of(Site((mock.port,), keys=keys)) as server,
    ):
        limited = [await server.ask(request(key="limited")) for _ in range(4)]
        traffic, streams = await busy(server, ledger, 2.0)
        lives, held = set(traffic.workers), list(traffic.at.values())
        killed_s = time.monotonic()
        os.kill(server.workers()[0], signal.SIGKILL)
        await traffic.until(lambda: traffic.workers - lives)
        recovered_s = min(traffic.first_s[new] for new in traffic.workers - lives) - killed_s
        await traffic.more(WARM)
        outcome = await outcome_of(ledger, traffic, streams=streams)
        outcome.recovered_s = recovered_s
        victims = set(traffic.fell_at) | set(streams.fell_at)
        outcome.expect(len(victims) <= 1, f"connections of {len(victims)} lives fell")
        outcome.may_fall = sum(
            held.count(victim) + streams.running_at(victim) for victim in victims
        )
        outcome.note = f"{outcome.may_fall} connections at that worker"
        if isinstance(server, Aigw):
            await counted_once(server, outcome, traffic, streams)
            statuses = [answer.status for answer in limited]
            outcome.expect(statuses == [200, 200, 200, 429], f"a bucket of 3 gave {statuses}")
            await still_limited(server, outcome)
            running = await server.metric("requests_in_flight")
            outcome.expect(running == 0, f"{running:g} still count as running")
        return outcome


async def still_limited(server: Aigw, outcome: Outcome) -> None:
    """An empty bucket is empty at each worker."""
    for client in await server.one_for_each_worker(2):
        await client.send(request(key="limited"))
        status = (await client.answer()).status
        outcome.expect(status == 429, f"an empty bucket gave {status}")


async def kill_controller(server_of: type[Server], size: Size) -> Outcome:
    """kill -9, twice, once just after a reload: clients notice nothing."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, Aigw(Site((mock.port,))) as server:
        traffic, streams = await busy(server, ledger, 3.0)
        took_s, forgotten = [], 0
        for lives in (2, 3):
            before = await server.metric("requests_total")
            killed_s = time.monotonic()
            os.kill(server.controller(), signal.SIGKILL)
            forgotten += await server.metric("requests_total") < before
            took_s.append(time.monotonic() - killed_s)
            await server.expect("controller started", lives)
            await server.reload()
            await traffic.more(100)
        outcome = await outcome_of(ledger, traffic, streams=streams)
        outcome.recovered_s = max(took_s)
        outcome.expect(forgotten == 0, "a successor has forgotten requests")
        version = await server.metric("policy_version")
        outcome.expect(version == 3, f"policy {version:g} after two reloads")
        reloads = await server.metric("reloads_total", result="ok")
        outcome.expect(reloads == 2, f"{reloads:g} reloads counted")
        await all_is_well(server, outcome, traffic, streams)
        return outcome


async def kill_master(server_of: type[Server], size: Size) -> Outcome:
    """kill -9: the workers finish what they have, let nobody new in, and end."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, Aigw(Site((mock.port,))) as server:
        fresh = Traffic(server, ledger, Connection="close")
        await fresh.run(CLIENTS, least=WARM)
        traffic, streams = await busy(server, ledger, 2.0)
        killed_s = time.monotonic()
        server.signal(signal.SIGKILL)
        await traffic.gone()
        await fresh.gone()
        outcome = await outcome_of(ledger, traffic, fresh, streams=streams)
        status = await server.ends()
        outcome.note = f"all processes ended after {time.monotonic() - killed_s:.1f} s"
        outcome.expect(status == -signal.SIGKILL, f"exit status {status}")
        logged, answered = len(server.access()), traffic.answered + fresh.answered + streams.whole
        outcome.expect(logged == answered, f"{logged} lines for {answered} answers")
        return outcome


async def stop_worker(server_of: type[Server], size: Size) -> Outcome:
    """SIGSTOP: a worker that hangs. Recovered is when all who wait in its queue are answered."""
    ledger = Ledger()
    async with await ledger.upstream() as mock, server_of(Site((mock.port,))) as server:
        traffic = Traffic(server, ledger)
        await traffic.run(CLIENTS, least=WARM)
        lives, held = set(traffic.workers), list(traffic.at.values())
        victim = server.workers()[0]
        stopped_s = time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        queued = [await waiting(server, ledger, "user1") for _ in range(40)]
        done, hanging = await asyncio.wait(queued, timeout=HANG_S)
        recovered_s = None if hanging else time.monotonic() - stopped_s
        if hanging:  # nobody has ended it, so somebody has to
            os.kill(victim, signal.SIGCONT)
            await asyncio.wait(hanging)
        await traffic.more(WARM)
        outcome = await outcome_of(ledger, traffic)
        outcome.lost += len(hanging) + sum(not task.result().whole for task in done)
        outcome.may_fall = sum(held.count(fallen) for fallen in set(traffic.fell_at))
        outcome.recovered_s = recovered_s
        outcome.expect(len(traffic.fell_at) <= 1, f"connections of {len(traffic.fell_at)} fell")
        if isinstance(server, Aigw):
            await server.expect(rf"\(pid {victim}\) hangs for [\d.]+ s: killed")
            await server.expect("worker 0 started", 2)
            heirs = {worker_of(task.result()) for task in done} - lives
            outcome.expect(len(heirs) == 1, "the queue was not answered by a successor")
            stuck = await server.metric("worker_restarts_total", reason="stuck")
            outcome.expect(stuck == 1, f"{stuck:g} restarts counted")
        return outcome
