"""Where a request's time goes, in a gateway that really runs: `python -m bench.profile`.

    CPU time per request, and the kernel's part of it            /proc
    what of the rest is the interpreter's, libc's, uvloop's      perf, where it may
    reads and writes per request; other system calls             /proc; strace, where it may
    what of the rest is whose, by room and by function           `sampling.py`

One worker behind `bench.load` and in front of the mock; each question has a run of its own, since
the tools slow down what they look at.  Only the first run gives times, the others give shares of
them.  It takes about half a minute and ends all that it has started.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.cpu import PROC, CpuTime, cpu_time, tree
from bench.peers.aigw import AIGW
from bench.peers.peer import GATEWAY_KEY, Peer
from bench.peers.run import PeerError, free_port, make_site, process, running_peer
from bench.report import table
from bench.sampling import Place, samples

WARM_UP_S = 1.0
# Under strace each call takes two switches to another process: a few requests say enough.
TRACED_REQUESTS = 1000
TRACED_CONNECTIONS = 16
PERF_HZ = 1000
# Samples are few in a second: this run is so much longer than the others.
SAMPLED_LONGER = 2
PATIENCE_S = 30.0
FUNCTIONS_SHOWN = 30
LINES_SHOWN = 15

# What belongs to which object file, by the beginning of its name.
PARTS = (
    ("interpreter", re.compile(r"python\d|libpython")),
    ("libc", re.compile(r"libc[.-]|libm[.-]|\[vdso\]|ld-linux|libpthread")),
    ("uvloop", re.compile(r"loop\.")),
    ("SHA-256", re.compile(r"libcrypto|_hashlib|_sha")),
)
OTHERS = "other extensions"


class ProfileError(Exception):
    """The gateway or the load did not do what it should."""


class Gateway(NamedTuple):
    """A gateway that serves: where, the whole of it, and the one process that does the work."""

    port: int
    master: int
    worker: int


class Reading(NamedTuple):
    """What the worker and the whole tree have used so far."""

    tree: CpuTime
    worker: CpuTime
    reads: int
    writes: int


class Cost(NamedTuple):
    """Of one request; times in µs."""

    answers: int
    tree_us: float
    worker_us: float
    kernel_us: float
    reads: float
    writes: float

    @property
    def user_us(self) -> float:
        return self.worker_us - self.kernel_us


# ---- what runs -----------------------------------------------------------------------------------


@contextmanager
def running_gateway(folder: Path, peer: Peer = AIGW) -> Iterator[Gateway]:
    """The mock, a gateway before it, and the gateway's worker warm."""
    folder.mkdir()
    port = free_port()
    mock = [sys.executable, "-m", "aigw.mock", "--port", str(port)]
    site = make_site(folder / "gateway", port)
    with process(mock, folder, AIGW.environment(site)), running_peer(peer, site, None) as here:
        run_load(here.port, folder, "--seconds", str(WARM_UP_S))
        children = tree(here.pid)[1:]
        yield Gateway(here.port, here.pid, max(children, key=lambda pid: cpu_time(pid).total_s))


def run_load(port: int, folder: Path, *options: str) -> int:
    """How many requests it has got answered. Raises ProfileError if any was not."""
    output = folder / "load.json"
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    command = [sys.executable, "-m", "bench.load", "--url", url, "--key", GATEWAY_KEY]
    done = subprocess.run(
        [*command, "--warmup", "0", "--json", str(output), *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S + 30,
    )
    if done.returncode:
        raise ProfileError(f"the load failed: {done.stdout[-300:]}{done.stderr[-300:]}")
    answers: int = json.loads(output.read_bytes())["answers"]
    return answers


# ---- CPU time, and what is read and written ------------------------------------------------------


def read_counters(gateway: Gateway) -> Reading:
    lines = (PROC / str(gateway.worker) / "io").read_text().splitlines()
    io = dict(line.split(": ") for line in lines)
    reads, writes = int(io["syscr"]), int(io["syscw"])
    return Reading(cpu_time(gateway.master), cpu_time(gateway.worker), reads, writes)


def cost_of_request(gateway: Gateway, folder: Path, seconds: float) -> Cost:
    before = read_counters(gateway)
    answers = run_load(gateway.port, folder, "--seconds", str(seconds))
    after = read_counters(gateway)
    worker = after.worker.since(before.worker)
    return Cost(
        answers,
        after.tree.since(before.tree).total_s / answers * 1e6,
        worker.total_s / answers * 1e6,
        (worker.total_s - worker.user_s) / answers * 1e6,
        (after.reads - before.reads) / answers,
        (after.writes - before.writes) / answers,
    )


# ---- perf: what of the user time is whose --------------------------------------------------------


def user_parts(gateway: Gateway, folder: Path, seconds: float) -> Counter[str]:
    """Samples of the worker's user time, by part; none where perf is not there or may not."""
    if shutil.which("perf") is None:
        return Counter()
    data = str(folder / "perf.data")
    command = ["perf", "record", "-q", "-N", "-B", "-e", "cpu-clock:u", "-F", str(PERF_HZ)]
    recorder = subprocess.Popen(
        [*command, "-p", str(gateway.worker), "-o", data, "--", "sleep", str(seconds)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        run_load(gateway.port, folder, "--seconds", str(seconds))
    finally:
        failed = ended(recorder)
    if failed:
        return Counter()
    report = ["perf", "report", "-q", "--stdio", "-i", data, "--sort", "dso"]
    done = subprocess.run(
        [*report, "-F", "sample,dso", "-t", ","], capture_output=True, text=True, timeout=PATIENCE_S
    )
    return parts_in(done.stdout)


def parts_in(report: str) -> Counter[str]:
    """Samples by part, from lines of `samples,object file`."""
    parts: Counter[str] = Counter()
    for line in report.splitlines():
        count, _, name = line.partition(",")
        if count.strip().isdigit():
            parts[part_of(name.strip())] += int(count)
    return parts


def part_of(name: str) -> str:
    return next((part for part, names in PARTS if names.match(name)), OTHERS)


def ended(child: subprocess.Popen[bytes], stop: signal.Signals | None = None) -> int:
    """Its status, once it has ended; it is ended if it takes too long."""
    if stop is not None and child.poll() is None:
        child.send_signal(stop)
    try:
        return child.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


# ---- strace: which system calls ------------------------------------------------------------------


def system_calls(gateway: Gateway, folder: Path) -> dict[str, float]:
    """Of the worker's main thread, per request; none where strace is not there or may not."""
    if shutil.which("strace") is None:
        return {}
    output = folder / "strace.txt"
    command = ["strace", "-c", "-qq", "-p", str(gateway.worker), "-o", str(output)]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not is_traced(gateway.worker, tracer):
            return {}
        options = ("--requests", str(TRACED_REQUESTS), "--connections", str(TRACED_CONNECTIONS))
        answers = run_load(gateway.port, folder, *options, "--seconds", str(PATIENCE_S))
    finally:
        ended(tracer, signal.SIGINT)
    return {name: calls / answers for name, calls in calls_in(output.read_text()).items()}


def is_traced(pid: int, tracer: subprocess.Popen[bytes]) -> bool:
    """Wait until the tracer has attached; False if it has given up."""
    while tracer.poll() is None:
        if f"TracerPid:\t{tracer.pid}\n" in (PROC / str(pid) / "status").read_text():
            return True
        time.sleep(0.01)
    return False


def calls_in(summary: str) -> dict[str, int]:
    """Calls by name, from the table that `strace -c` prints: % time, s, µs/call, calls, errors."""
    calls = {}
    for line in summary.splitlines():
        cells = line.split()
        if len(cells) >= 5 and cells[3].isdigit() and cells[-1] != "total":
            calls[cells[-1]] = int(cells[3])
    return calls


# ---- samples: which function ---------------------------------------------------------------------


def sampled(folder: Path, seconds: float) -> Counter[Place]:
    """Samples of a worker's user time in a gateway of its own."""
    notes = folder / "samples"

    def command(site: object, program: Path) -> list[str]:
        config = f"{folder}/run/gateway/gateway.toml"
        return [str(program), "-m", "bench.sampling", str(notes), "run", "-c", config]

    notes.mkdir()
    with running_gateway(folder / "run", AIGW._replace(command=command)) as gateway:
        file = notes / str(gateway.worker)
        before = file.stat().st_size  # the start and the warm-up
        run_load(gateway.port, folder, "--seconds", str(seconds))
        with file.open("rb") as stacks:
            stacks.seek(before)
            return samples(stacks.read().decode(errors="replace"))


# ---- the report ----------------------------------------------------------------------------------


def shares(
    counts: Counter[str], whole_us: float, heading: tuple[str, str, str], most: int = 100
) -> str:
    """Counts as a table, the largest first: how much of the whole, and what that is in µs."""
    total = counts.total()
    rows: list[Sequence[str]] = [heading]
    for name, count in counts.most_common(most):
        rows.append((name, f"{count / total:.1%}", f"{count / total * whole_us:.2f}"))
    return table(rows)


def print_cost(cost: Cost, parts: Counter[str]) -> None:
    print(
        f"{cost.answers} requests, closed loop: CPU {cost.tree_us:.1f} µs per request in all "
        f"processes, {cost.worker_us:.1f} µs in the worker"
    )
    if not parts:
        print("perf is not here, or may not: user time is not split")
        parts = Counter({"user": 1})
    scale = cost.user_us / parts.total()
    us = Counter({part: round(count * scale * 1e3) for part, count in parts.items()})
    us["kernel"] = round(cost.kernel_us * 1e3)
    print(shares(us, cost.worker_us, ("worker's time", "share", "µs")), "\n")


def print_calls(cost: Cost, calls: dict[str, float]) -> None:
    print(f"per request {cost.reads:.2f} reads, {cost.writes:.2f} writes (all threads; logs too)")
    if not calls:
        print("strace is not here, or may not: other system calls are not counted\n")
        return
    rows: list[Sequence[str]] = [("main thread, traced", "per request")]
    for name, count in sorted(calls.items(), key=lambda item: -item[1]):
        if count >= 0.005:
            rows.append((name, f"{count:.2f}"))
    print(table(rows))
    opened = TRACED_CONNECTIONS / TRACED_REQUESTS
    print(f"(with {opened:.3f} new client connections per request)\n")


def print_samples(places: Counter[Place], user_us: float) -> None:
    rooms, functions, lines = Counter[str](), Counter[str](), Counter[str]()
    for place, count in places.items():
        rooms[place.room] += count
        functions[place.function] += count
        if place.line:
            file, _, function = place.function.partition(" ")
            lines[f"{file}:{place.line} {function}"] += count
    print(f"user time by room, {places.total()} samples")
    print(shares(rooms, user_us, ("room", "share", "µs")), "\n")
    print(shares(functions, user_us, ("function", "share", "µs"), FUNCTIONS_SHOWN), "\n")
    print(shares(lines, user_us, ("line", "share", "µs"), LINES_SHOWN))


def profile(folder: Path, seconds: float) -> None:
    with running_gateway(folder / "plain") as gateway:
        cost = cost_of_request(gateway, folder, seconds)
        print_cost(cost, user_parts(gateway, folder, seconds))
        print_calls(cost, system_calls(gateway, folder))
    print_samples(sampled(folder, SAMPLED_LONGER * seconds), cost.user_us)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6, help="of each run (default: 6)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        try:
            profile(Path(folder), options.seconds)
        except (PeerError, ProfileError, subprocess.TimeoutExpired) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
