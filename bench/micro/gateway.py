"""A worker's proxy without a network: clients' connections, upstream connections, and between them
the gateway, set up as a worker does it.

It is driven by what the event loop would call, `data_received` on either side and at the end of a
turn what was put off until then, and by nothing else: so a case measures the same before and after
the inside was written anew.
"""

from __future__ import annotations

import asyncio
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

KEY = "sk-gw"
LIMITED_KEY = "sk-limited"  # one request a minute
CONFIGURATION = """
[log]
access = "{log}"
[[keys]]
name = "bench"
key = "sk-gw"
rps = 100000
burst = 100000
max_parallel_requests = 1000
[[keys]]
name = "limited"
key = "sk-limited"
rpm = 1
burst = 1
[[upstreams]]
name = "nobody"
urls = ["http://127.0.0.1:9"]
credentials = ["sk-upstream"]
pool = {{ keep_alive = "1h", max_age = "1h" }}
[[routes]]
path = "/v1"
targets = [{{ upstream = "nobody" }}]
"""
# Shapes of heads are learned after four sights, one in 100 ms.
WARM_UP_CALLS = 8
WARM_UP_PAUSE_S = 0.06


Receive = Callable[[bytes], None]


class Void:
    """A transport that takes everything and keeps only what was written last."""

    def __init__(self) -> None:
        self.last = b""
        self.is_over = False

    def write(self, data: bytes) -> None:
        self.last = data

    def is_closing(self) -> bool:
        return self.is_over

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.is_over = True

    def abort(self) -> None:
        self.is_over = True


class Turns:
    """Stands for the loop: what is called soon is called at the end of the turn."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def end(self) -> None:
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()


class MicroGateway:
    """`client` and `upstream` take bytes of the first connection on either side, `answer` is what
    that client was sent last; `end_turn` does what the loop does when all have been read."""

    def __init__(self, folder: Path):
        file = folder / "gateway.toml"
        file.write_text(CONFIGURATION.format(log=folder / "access.log"))
        self.memory = memory = Memory.create(1)
        memory.used = 1
        memory.policy.publish(compile_policy(load(file, {}), memory, time.monotonic()))
        version, blob = memory.policy.read()
        self._log = AccessLog(str(folder / "access.log"), lambda lines: None)
        self._log.start(asyncio.get_running_loop())
        limits = Limits(BucketTable(memory, 0), HeldTable(memory, 0))
        self.metrics = WorkerMetrics(CounterRegion(memory, 0))
        services = Services(memory, 0, limits, self.metrics, self._log)
        services.use_policy(version, load_policy(blob))
        services.connection_limit = 100
        turns = Turns()
        services.loop = cast(Any, turns)
        self.end_turn = turns.end
        self._services = services
        self._downstream = Void()
        self.client, self.upstream = self.connect(self._downstream)

    def connect(self, downstream: Void) -> tuple[Receive, Receive]:
        """One more client, and one more idle connection to the upstream."""
        client = ClientConnection(self._services)
        client.connection_made(cast(Any, downstream))
        member = self._services.groups()[0].members[0]
        upstream = UpstreamConnection(member, time.monotonic())
        upstream.connection_made(cast(Any, Void()))
        member.give_idle(upstream, time.monotonic())
        return client.data_received, upstream.data_received

    @property
    def answer(self) -> bytes:
        """What the client was sent last; nothing where its connection was ended."""
        return b"" if self._downstream.is_over else self._downstream.last

    async def warm(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call it until all that can be learned of it is known."""
        for _ in range(WARM_UP_CALLS):
            call()
            await asyncio.sleep(WARM_UP_PAUSE_S)
        return call

    async def close(self) -> None:
        await self._log.close()
