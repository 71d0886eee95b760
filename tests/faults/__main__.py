"""`python -m tests.faults [NAME ...] [--short] [--beside] [--record]`: make the faults and tell.

The exit status is 1 if an expectation is not met; a line says which.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from bench.compare import machine
from bench.report import table
from tests.faults.outcome import HEADING, RESULT, Outcome, Result, Results, cells, complaints, line
from tests.faults.servers import Aigw, Nginx, Server
from tests.faults.table import FAULTS, Fault
from tests.faults.traffic import LONG, SHORT, Size
from tests.gateway_process import play

PATIENCE_S = 180.0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--short", action="store_true", help="in seconds, for .ci/run")
    parser.add_argument("--beside", action="store_true", help="nginx too, where it can")
    parser.add_argument("--record", action="store_true", help="all, beside nginx, into a file")
    options = parser.parse_args(argv)
    unknown = set(options.names) - set(FAULTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.record and (options.names or options.short):
        parser.error("what is recorded is all, in full")
    return options


def run(fault: Fault, server: type[Server], size: Size) -> Outcome:
    """One fault; what goes wrong beyond all expectation is an outcome, too."""
    try:
        return play(fault.make(server, size), PATIENCE_S)
    except Exception as broken:
        traceback.print_exc()
        return Outcome(asked=0, missed=[f"{type(broken).__name__}: {broken}"])


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    size = SHORT if options.short else LONG
    servers: list[type[Server]] = [Aigw]
    if options.beside or options.record:
        servers.append(Nginx)
    results, failed = [], False
    for name in options.names or FAULTS:
        fault = FAULTS[name]
        for server in servers if fault.nginx else [Aigw]:
            outcome = run(fault, server, size)
            results.append(Result(name, server.name, outcome))
            print(line(label(name, server), outcome, fault.expected), flush=True)
            # nginx is there to be compared with, not to be judged.
            for complaint in complaints(outcome, fault.expected) if server is Aigw else ():
                failed = True
                print(f"{name}: NOT MET: {complaint}", flush=True)
    print()
    print(table([HEADING, *(row(result) for result in results)]))
    if options.record:
        record(results)
    return 1 if failed else 0


def row(result: Result) -> tuple[str, ...]:
    expected = FAULTS[result.fault].expected
    return (f"{result.fault}, {result.server}", *cells(result.outcome, expected))


def record(results: list[Result]) -> None:
    found = Results(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        servers={server.name: server.version() for server in (Aigw, Nginx)},
        results=results,
    )
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")


def label(name: str, server: type[Server]) -> str:
    return name if server is Aigw else f"{name}, {server.name}"


if __name__ == "__main__":
    raise SystemExit(main())
