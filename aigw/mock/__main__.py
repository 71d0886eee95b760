"""`python -m aigw.mock --port 9000`: the mock provider alone, until Ctrl-C or SIGTERM.

Prints one line with its address as soon as it listens, so that a script can wait for it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import ssl
from collections.abc import Sequence

import uvloop

from aigw.mock.provider import MockSettings, serve


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aigw.mock", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (default): a free one")
    parser.add_argument("--latency-ms", type=float, default=0, help="until the first byte")
    parser.add_argument("--chunks", type=int, default=20, help="pieces of a streamed answer")
    parser.add_argument("--spacing-ms", type=float, default=0, help="between two chunks")
    parser.add_argument("--size", type=int, default=0, help="bytes of content; 0: by endpoint")
    parser.add_argument("--ledger", type=int, default=0, help="requests kept at /mock/requests")
    parser.add_argument("--tls-cert", help="PEM file: serve HTTPS, with the key of --tls-key")
    parser.add_argument("--tls-key")
    parser.add_argument("--reuse-port", action="store_true", help="several processes, one port")
    return parser.parse_args(argv)


async def run(options: argparse.Namespace) -> None:
    settings = MockSettings(
        latency_s=options.latency_ms / 1000,
        chunks=options.chunks,
        spacing_s=options.spacing_ms / 1000,
        answer_bytes=options.size,
        ledger=options.ledger,
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tls = None
    if options.tls_cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.tls_cert, options.tls_key)
    server = await serve(
        settings, options.host, options.port, reuse_port=options.reuse_port, tls=tls
    )
    async with server:
        scheme = "https" if tls else "http"
        print(f"mock provider on {scheme}://{options.host}:{server.port}", flush=True)
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)  # collections were the tail of the mock's latency
        await stop.wait()


def main(argv: Sequence[str] | None = None) -> int:
    uvloop.run(run(arguments(argv)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
