"""What one would write oneself: a gateway in 60 lines of aiohttp, on uvloop, with all duties.

python -m bench.peers.aiohttp_gateway PORT UPSTREAM-URL LOG-FILE
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop
from aiohttp import ClientSession, TCPConnector, web

from bench.peers.peer import GATEWAY_KEY, PROVIDER_KEY, REFUSAL, SLOW_KEY, TOO_MANY

RATES = {GATEWAY_KEY: 100_000.0, SLOW_KEY: 2.0}
DROPPED = {"host", "authorization", "connection", "content-length", "transfer-encoding"}
BODY_BYTES = 100 * 2**20  # as the gateways allow


class Gateway:
    def __init__(self, upstream: str, log: Path) -> None:
        self.upstream = upstream
        self.log = log.open("a", buffering=65536)
        self.buckets = {key: (rate, time.monotonic()) for key, rate in RATES.items()}

    async def session(self, app: web.Application) -> AsyncIterator[None]:
        connector = TCPConnector(limit=0)
        async with ClientSession(connector=connector, auto_decompress=False) as self.client:
            yield

    def admits(self, key: str) -> bool:
        level, then = self.buckets[key]
        now = time.monotonic()
        level = min(RATES[key], level + (now - then) * RATES[key])
        self.buckets[key] = (level - 1 if level >= 1 else level, now)
        return level >= 1

    async def handle(self, request: web.Request) -> web.StreamResponse:
        started, request_id = time.time(), str(uuid.uuid4())
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key not in RATES:
            answer: web.StreamResponse = web.Response(status=401, text=REFUSAL)
        elif not self.admits(key):
            answer = web.Response(status=429, text=TOO_MANY, headers={"retry-after": "1"})
        else:
            answer = await self.forward(request, request_id)
        line = {"time": started, "request_id": request_id, "path": request.path}
        line |= {"status": answer.status, "duration": time.time() - started}
        self.log.write(json.dumps(line) + "\n")
        return answer

    async def forward(self, request: web.Request, request_id: str) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in DROPPED}
        headers |= {"authorization": f"Bearer {PROVIDER_KEY}"}
        url, body = self.upstream + request.path_qs, await request.read()
        async with self.client.request(request.method, url, headers=headers, data=body) as got:
            kept = {k: v for k, v in got.headers.items() if k.lower() not in DROPPED}
            kept["x-request-id"] = request_id
            if got.content_length is not None:
                return web.Response(status=got.status, headers=kept, body=await got.read())
            answer = web.StreamResponse(status=got.status, headers=kept)
            await answer.prepare(request)
            async for chunk in got.content.iter_any():
                await answer.write(chunk)
            await answer.write_eof()
            return answer


def main(port: str, upstream: str, log: str) -> None:
    uvloop.install()
    gateway = Gateway(upstream, Path(log))
    app = web.Application(client_max_size=BODY_BYTES)
    app.cleanup_ctx.append(gateway.session)
    app.router.add_route("*", "/{path:.*}", gateway.handle)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
