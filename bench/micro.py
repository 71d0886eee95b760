"""What one plain exchange costs the interpreter: a worker's proxy between two transports that only
take what is written, without a socket, a kernel or a load generator in the figure.

    python -m bench.micro                 CPU µs per exchange, recognised heads and parsed ones
    python -m bench.micro --profile       where they go (cProfile, which inflates calls)

Compare two figures of one run only: machines differ, and so do their moments.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from aigw.config import load
from aigw.memory import BucketTable, CounterRegion, HeldTable, Memory
from aigw.observe.access_log import AccessLog
from aigw.observe.metrics import WorkerMetrics
from aigw.policy import compile_policy, load_policy
from aigw.policy.limits import Limits
from aigw.proxy.client import ClientConnection
from aigw.proxy.services import Services
from aigw.upstreams.connection import UpstreamConnection

CONFIGURATION = """
[log]
access = "{log}"
[[keys]]
name = "bench"
key = "sk-gw"
rps = 100000
burst = 100000
max_parallel_requests = 1000
[[upstreams]]
name = "nobody"
urls = ["http://127.0.0.1:9"]
credentials = ["sk-upstream"]
[[routes]]
path = "/v1"
targets = [{{ upstream = "nobody" }}]
"""
BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 540)
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: OpenAI/Python\r\n"
    b"Authorization: Bearer sk-gw\r\nContent-Type: application/json\r\nX-Stainless-Lang: python\r\n"
    b"X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nx-stainless-retry-count: 0\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"content-length: 1200\r\nx-request-id: req_1\r\n\r\n" + b"y" * 1200
)
WARM_UP = 8


class Void:
    """A transport that takes everything and keeps nothing."""

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Bench:
    """One client connection, one upstream connection, and the proxy between them."""

    def __init__(self, folder: Path):
        file = folder / "gateway.toml"
        file.write_text(CONFIGURATION.format(log=folder / "access.log"))
        memory = Memory.create(1)
        memory.used = 1
        memory.policy.publish(compile_policy(load(file, {}), memory, time.monotonic()))
        version, blob = memory.policy.read()
        self.log = AccessLog(str(folder / "access.log"), lambda lines: None)
        self.log.start(asyncio.get_running_loop())
        limits = Limits(BucketTable(memory, 0), HeldTable(memory, 0))
        metrics = WorkerMetrics(CounterRegion(memory, 0))
        self.services = Services(memory, 0, limits, metrics, self.log)
        self.services.use_policy(version, load_policy(blob))
        self.services.connection_limit = 10
        self.odd = 0
        transport = cast(Any, Void())
        self.client = ClientConnection(self.services)
        self.client.connection_made(transport)
        member = self.services.groups()[0].members[0]
        self.upstream = UpstreamConnection(member, time.monotonic())
        self.upstream.connection_made(transport)
        member.idle.append(self.upstream)

    def exchange(self) -> None:
        self.client.data_received(REQUEST)
        self.upstream.data_received(ANSWER)

    def odd_exchange(self) -> None:
        """A head that was never seen before: no template can know it."""
        self.odd += 1
        self.client.data_received(REQUEST.replace(b"gateway", b"gateway%d" % self.odd, 1))
        self.upstream.data_received(ANSWER)

    async def cost_us(self, exchange: Callable[[], None], rounds: int, exchanges: int) -> float:
        """The least of some rounds, since noise only adds."""
        costs = []
        for _ in range(rounds):
            started_s = time.process_time()
            for _ in range(exchanges):
                exchange()
            costs.append((time.process_time() - started_s) / exchanges * 1e6)
            await asyncio.sleep(0.15)  # the log writes what it holds, outside of the figure
        return min(costs)


async def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for _ in range(WARM_UP):  # until both shapes are known
            bench.exchange()
            await asyncio.sleep(0.06)
        if arguments.profile:
            with cProfile.Profile() as profile:
                for _ in range(arguments.exchanges):
                    bench.exchange()
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        else:
            cost_us = await bench.cost_us(bench.exchange, 7, arguments.exchanges)
            odd_us = await bench.cost_us(bench.odd_exchange, 3, arguments.exchanges // 4)
            print(f"recognised heads {cost_us:.1f} µs, request heads never alike {odd_us:.0f} µs")
        await bench.log.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of one plain exchange in the proxy.")
    parser.add_argument("--exchanges", type=int, default=2000, help="a round (default: 2000)")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
