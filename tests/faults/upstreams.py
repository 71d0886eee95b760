"""Faults of upstreams: one that refuses, flaps, stalls, drips, resets.

Two kinds of scenes. In one the bad upstream is a second member behind the route of the load: what
it has not received goes to the other member, and only who was on a new connection to it in that
very moment is told, since it may have executed that request (nginx sends it once more, if it is
idempotent). In the other it is alone behind a route of its own, whose clients must be told
honestly, while the load on the other route goes on as if nothing were.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from aigw.mock.provider import MockServer
from tests.conversation import Peer, Upstream, ok
from tests.faults.outcome import Outcome
from tests.faults.servers import Aigw, Server, Site
from tests.faults.traffic import CLIENTS, NUMBER, WARM, Ledger, Size, Traffic, outcome_of
from tests.gateway_process import CHAT, LOOK_S

DOWN_S, FLAP_S = 1.0, 0.25
BAD_CLIENTS, BAD_ANSWERS = 20, 40
DRIP_S = 0.01
# On a busy machine a drop takes some times as long, and the answer has to begin in time.
DRIPS_TIMEOUT_S = 10
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
EVENT = b'data: {"choices":[]}\n\n'
# Other routes' clients are those of a closed loop: none of them may wait for the bad upstream.
UNHARMED_S = 0.9


# ---------------------------------------------------------------- a member that comes and goes


async def refuses(server_of: type[Server], size: Size) -> Outcome:
    """Its port is closed for a second; recovered is when it is asked again."""
    return await comes_and_goes(server_of, [DOWN_S])


async def flaps(server_of: type[Server], size: Size) -> Outcome:
    """Down for a quarter of a second, up for a quarter, again and again."""
    return await comes_and_goes(server_of, [FLAP_S] * size.flaps)


async def comes_and_goes(server_of: type[Server], downs_s: list[float]) -> Outcome:
    ledger = Ledger()
    async with await ledger.upstream() as steady:
        member = await ledger.upstream()
        try:
            async with server_of(Site((steady.port, member.port))) as server:
                traffic = Traffic(server, ledger)
                await traffic.run(CLIENTS, least=WARM)
                before = member.provider.answered
                for down_s in downs_s:
                    member = await away(member, ledger, down_s)
                    await asyncio.sleep(FLAP_S)
                up_s = time.monotonic() - FLAP_S
                await traffic.until(lambda: member.provider.answered)
                recovered_s = time.monotonic() - up_s
                await traffic.more(WARM)
                outcome = await outcome_of(ledger, traffic)
                outcome.recovered_s = recovered_s
                outcome.expect(before > 0, "the member was never asked")
                if isinstance(server, Aigw):
                    resets = await server.metric("upstream_failures_total", reason="reset")
                    outcome.expect(
                        outcome.told == resets,
                        f"{outcome.told} told, {resets:g} of new connections that were reset",
                    )
                return outcome
        finally:
            member.close()


async def away(member: MockServer, ledger: Ledger, down_s: float) -> MockServer:
    """Close its port and reset its connections; then let another open the port again."""
    member.close()
    await member.wait_closed()
    await asyncio.sleep(down_s)
    return await ledger.upstream(member.port)


# ---------------------------------------------------------------- one that is alone


class Bad:
    """A scripted upstream that does `now` with each request, and counts its number."""

    def __init__(self, ledger: Ledger, now: Callable[[Bad, Peer], Awaitable[bool]]) -> None:
        self._ledger = ledger
        self.now = now
        self.served = 0
        self.broken_off = 0  # answers that had begun

    async def script(self, peer: Peer) -> None:
        """One connection, until its end."""
        try:
            await self._serve(peer)
        except RuntimeError as fault:  # what uvloop says of a connection that was closed meanwhile
            assert "the handler is closed" in str(fault)

    async def _serve(self, peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b": ")
                if name.lower() == NUMBER:
                    self._ledger.arrived[value] += 1
            self.served += 1
            if not await self.now(self, peer):
                return


async def serves(bad: Bad, peer: Peer) -> bool:
    await peer.send(ok(b"well again"))
    return True


async def says_nothing(bad: Bad, peer: Peer) -> bool:
    await peer.rest()
    return False


async def answers_in_drops(bad: Bad, peer: Peer) -> bool:
    """Head and body byte by byte."""
    for byte in ok(b"drip"):
        await peer.send(bytes([byte]))
        await asyncio.sleep(DRIP_S)
    return True


async def breaks_off(bad: Bad, peer: Peer) -> bool:
    """By turns before the first byte, within the head, and within a stream."""
    turn = bad.served % 3
    if turn == 1:
        await peer.send(SSE_HEAD[:30])
    elif turn == 2:
        bad.broken_off += 1
        event = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
        await peer.send(SSE_HEAD + event * 3 + event[:10])
        await asyncio.sleep(0.05)  # a reset takes with it what has not been read
    peer.reset()
    return False


async def stalls(server_of: type[Server], size: Size) -> Outcome:
    """It takes requests and says nothing."""
    return await alone(server_of, says_nothing)


async def drips(server_of: type[Server], size: Size) -> Outcome:
    """It sends byte by byte, but it sends."""
    return await alone(server_of, answers_in_drops, DRIPS_TIMEOUT_S)


async def resets(server_of: type[Server], size: Size) -> Outcome:
    """It resets connections: who has no answer yet is told, who has one sees it cut."""
    return await alone(server_of, breaks_off)


async def alone(
    server_of: type[Server], fault: Callable[[Bad, Peer], Awaitable[bool]], timeout_s: int = 1
) -> Outcome:
    """Clients of the bad upstream and clients of a good one; recovered is when it is well again."""
    ledger = Ledger()
    bad = Bad(ledger, fault)
    async with (
        await ledger.upstream() as good,
        Upstream(bad.script) as upstream,
        server_of(Site((good.port,), upstream.port, timeout_s)) as server,
    ):
        traffic = Traffic(server, ledger)
        await traffic.run(CLIENTS, least=WARM)
        sick = Traffic(server, ledger, "/bad/chat", body=CHAT)
        sick_until_s = time.monotonic() + 30
        await sick.run(BAD_CLIENTS)
        slowest_s = 0.0
        while sick.answered + len(sick.lost) < BAD_ANSWERS:
            asked_s = time.monotonic()
            await traffic.more(CLIENTS)
            slowest_s = max(slowest_s, time.monotonic() - asked_s)
            assert time.monotonic() < sick_until_s, "the bad upstream's clients wait for ever"
        bad.now = serves
        well_s = time.monotonic()
        while sick.last_s.get(200, 0.0) < well_s:
            await asyncio.sleep(LOOK_S)
        outcome = await outcome_of(ledger, traffic, sick)
        outcome.recovered_s = sick.last_s[200] - well_s
        outcome.may_fall = bad.broken_off
        outcome.expect(not traffic.lost, "clients of the other route were lost")
        outcome.expect(set(traffic.statuses) == {200}, "clients of the other route were told")
        outcome.expect(sick.cut == bad.broken_off, f"{sick.cut} cut, {bad.broken_off} begun")
        outcome.expect(
            slowest_s < UNHARMED_S, f"the other route's clients waited {slowest_s:.1f} s"
        )
        return outcome
