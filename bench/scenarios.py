"""The loads of the comparison, as a table."""

from __future__ import annotations

from typing import NamedTuple

from bench.peers.peer import (
    GATEWAY_KEY,
    KEY_CHECK,
    RATE_LIMIT,
    SLOW_KEY,
    TLS,
    TWO_WORKERS,
)
from bench.request import RequestPlan


class Scenario(NamedTuple):
    """One kind of load."""

    name: str
    meaning: str
    request: RequestPlan
    connections: int = 64
    times: float = 1.0  # as long as the others
    steady: bool = False  # at a fixed rate, the peer's, instead of in the closed loop
    six_kinds: bool = False  # in turn those of bench/peers/run.py which the peer knows
    spread_s: float = 0.0  # the connections begin one after the other in this time
    requests: int = 0  # ends after so many, 0: after the time
    duty: str = ""  # only peers that do this
    starts_as: str = ""  # only peers that can be started so; they take part in both forms
    direct: bool = False  # the mock alone takes part as well


SMALL = RequestPlan(key=GATEWAY_KEY, body_bytes=600)
LARGE = SMALL._replace(body_bytes=20_480)
FIELD_REQUESTS = 8_000
# The field's workload must end also where it takes a minute.
FIELD_SECONDS = 8.0

SAME, IDS, HOSTILE_BOTH = "same", "ids", "hostile both"
STEADY, SINGLE, CROWD = "steady", "single", "crowd"
STREAMS, IN_STEP = "streams", "streams in step"

SCENARIOS = (
    Scenario(SAME, "600 B, heads repeat", SMALL, direct=True),
    Scenario(
        IDS,
        "600 B, Content-Length and three id headers differ each time, answers with a provider's "
        "25 headers, eight of them different each time",
        SMALL._replace(vary="ids", answer_heads="provider"),
        direct=True,
    ),
    Scenario("large", "20 KiB, heads repeat", LARGE, direct=True),
    Scenario(
        "large ids",
        "20 KiB, heads differ on both sides as above",
        LARGE._replace(vary="ids", answer_heads="provider"),
    ),
    Scenario(
        "hostile",
        "600 B, each request with a header name never sent before",
        SMALL._replace(vary="hostile"),
    ),
    Scenario(
        HOSTILE_BOTH,
        "600 B, each request and each answer with such a header name",
        SMALL._replace(vary="hostile", answer_heads="hostile"),
    ),
    Scenario(CROWD, "600 B, 256 connections", SMALL, connections=256, direct=True),
    Scenario(SINGLE, "600 B, one connection", SMALL, connections=1, direct=True),
    Scenario(STEADY, "600 B at a fixed rate, open loop", SMALL, steady=True, times=2, direct=True),
    Scenario(
        STREAMS,
        "streams of 100 chunks at 10 ms, 200 at once, begun one after the other within a second",
        SMALL._replace(stream=True),
        spread_s=1.0,
        direct=True,
    ),
    Scenario(
        IN_STEP,
        "the same, begun at once: all chunks come together, every 10 ms",
        SMALL._replace(stream=True),
        direct=True,
    ),
    Scenario("401", "600 B, an unknown key", SMALL._replace(key="sk-unknown"), duty=KEY_CHECK),
    Scenario("429", "600 B, beyond a rate limit", SMALL._replace(key=SLOW_KEY), duty=RATE_LIMIT),
    Scenario("tls", "600 B, the upstream speaks TLS", SMALL, starts_as=TLS),
    Scenario("two", "600 B, two workers", SMALL, starts_as=TWO_WORKERS),
    Scenario(
        "field",
        f"{FIELD_REQUESTS:,} requests over 10 connections, six kinds in turn: chat completions, "
        "responses and messages, each plain and streamed",
        SMALL,
        connections=10,
        six_kinds=True,
        requests=FIELD_REQUESTS,
        direct=True,
    ),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
