"""CPU time per call: quick, and noisy.  Compare two figures of one run only."""

from __future__ import annotations

import asyncio
import time

from bench.micro.cases import Call

ROUNDS = 7
CALLS = 1024  # a round; their access lines fit in the log's buffer, and are made by 64
LOG_PAUSE_S = 0.12  # the log writes its lines, outside of the figure


async def time_us(call: Call) -> float:
    """The least of some rounds, since noise only adds."""
    least_s = float("inf")
    for _ in range(ROUNDS):
        await asyncio.sleep(LOG_PAUSE_S)
        started_s = time.process_time()
        for _ in range(CALLS):
            call()
        least_s = min(least_s, time.process_time() - started_s)
    return least_s / CALLS * 1e6
