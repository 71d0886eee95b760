"""aigw beside everybody who is installed: CPU per request, throughput, latency, streams, memory.

python -m bench.compare --peers DIR                     all, about an hour
python -m bench.compare --only aigw nginx --seconds 0.7   for everyday use, under 4 minutes

All contenders run at once (idle ones cost next to nothing); each repetition measures each of them
once, in rotating order, so that a slow moment of the machine hits all. Figures are medians over
the repetitions. `--scenarios` names some of bench/scenarios.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path

import msgspec

from bench.goals import HEADING, rows
from bench.measure import Subject, live, measure, split, warm
from bench.outcome import DIRECT, Comparison, Contender, Life, Median, Run, Split, medians
from bench.peers import PEERS
from bench.peers.aigw import AIGW, ROOT
from bench.peers.peer import TLS, TWO_WORKERS, Pace, Peer, find_program
from bench.peers.run import (
    KINDS,
    PeerError,
    Running,
    await_answer,
    free_port,
    kinds_of,
    make_site,
    process,
    refusal_of,
    running_peer,
)
from bench.plot import cpu_plot, latency_plot
from bench.report import milliseconds, table
from bench.scenarios import BY_NAME, SCENARIOS, STEADY, Scenario

RESULT = Path(__file__).parent / "results" / "compare.json"
SECONDS = 2.5
REPETITIONS = 3


class Field:
    """All who take part, running, with the mock behind them."""

    def __init__(self, stack: ExitStack, folder: Path, peers: Path | None) -> None:
        self._stack = stack
        self._folder = folder
        self._peers = peers
        self._tls: Running | None = None
        self.subjects: list[Subject] = []
        self.contenders: list[Contender] = []
        self.skipped: dict[str, str] = {}
        self.mock = stack.enter_context(running_mock(folder / "mock"))
        self._add(self.mock, Pace(), tuple(KINDS), 0, self.mock.pid)

    def start(self, peer: Peer, form: str = "") -> None:
        """Starts it, in that form; who can't be started is named with the reason."""
        name = f"{peer.name}, {form}" if form else peer.name
        number = len(self.subjects) + len(self.skipped)
        try:
            upstream, ca = self._tls_mock() if form == TLS else (self.mock, None)
            site = make_site(
                self._folder / str(number), upstream.port, ca, 2 if form == TWO_WORKERS else 1
            )
            here = self._stack.enter_context(running_peer(peer, site, self._peers, name))
        except (PeerError, OSError, subprocess.CalledProcessError) as reason:
            self.skipped[name] = str(reason)
            print(f"skipped: {name}: {reason}", file=sys.stderr)
            return
        kinds, refuses = kinds_of(here), refusal_of(here)
        self._add(here, peer.pace, kinds, refuses, upstream.pid)
        if not form:
            self.contenders.append(
                Contender(
                    name=name,
                    kind=peer.kind,
                    version=version_of(peer, self._peers),
                    duties=peer.duties,
                    missing=peer.missing_duties,
                    kinds=kinds,
                    refuses=refuses,
                    rate=peer.pace.rate,
                    streams=peer.pace.streams,
                    note=peer.note,
                )
            )

    def _add(
        self, here: Running, pace: Pace, kinds: tuple[str, ...], refuses: int, mock_pid: int
    ) -> None:
        self.subjects.append(
            Subject(here=here, pace=pace, kinds=kinds, refuses=refuses, mock_pid=mock_pid)
        )

    def _tls_mock(self) -> tuple[Running, Path]:
        """A mock that speaks TLS under an authority of its own, started when first asked for."""
        folder = self._folder / "tls-mock"
        if self._tls is None:
            self._tls = self._stack.enter_context(running_mock(folder, tls=True))
        return self._tls, folder / "cert.pem"

    def taking_part(self, scenario: Scenario) -> list[Subject]:
        return [subject for subject in self.subjects if self._takes_part(subject, scenario)]

    def _takes_part(self, subject: Subject, scenario: Scenario) -> bool:
        if subject.name == DIRECT:
            return scenario.direct
        base, _, form = subject.name.rpartition(", ")
        peer = PEERS.get(subject.name)
        if peer is None:  # in a form
            return form == scenario.starts_as and base in PEERS
        if scenario.starts_as:
            return scenario.starts_as in peer.starts_as
        if scenario.name == "401" and not subject.refuses:
            return False
        return not scenario.duty or scenario.duty in peer.duties


@contextmanager
def running_mock(folder: Path, tls: bool = False) -> Iterator[Running]:
    """The upstream of all, and what the load generator sees without anybody between."""
    folder.mkdir(mode=0o755)
    port = free_port()
    command = [sys.executable, "-m", "aigw.mock", "--port", str(port)]
    if tls:
        make_certificate(folder)
        command += ["--tls-cert", f"{folder}/cert.pem", "--tls-key", f"{folder}/key.pem"]
    with process(command, folder, {"PYTHONPATH": str(ROOT)}) as child:
        here = Running(DIRECT, port, child.pid, 0.0)
        if not tls:
            await_answer(child, here, 20.0, folder / "output.log")
        yield here


def make_certificate(folder: Path) -> None:
    """A certificate for localhost and 127.0.0.1 that is its own authority."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    (folder / "cert.pem").chmod(0o644)


def version_of(peer: Peer, peers: Path | None) -> str:
    """What the peer says of itself, or its package; "" if neither does."""
    program = find_program(peer, peers)
    if program is None:
        return ""
    if peer.version:
        said = subprocess.run(
            [str(program), *peer.version], capture_output=True, text=True, check=False
        )
        words = (said.stdout or said.stderr).replace("/", " ").split()
        return next((word for word in words if word[:1].isdigit()), "")
    site_packages = [str(path) for path in program.parent.parent.glob("lib/python3*/site-packages")]
    for found in distributions(path=site_packages):
        if found.name.lower().replace("_", "-") == peer.package:
            return found.version
    described = program.parent.parent / "package.json"  # of a Node package
    return str(msgspec.json.decode(described.read_bytes())["version"]) if described.exists() else ""


def run_all(field: Field, scenarios: Sequence[Scenario], seconds: float, reps: int) -> list[Run]:
    runs = []
    for scenario in scenarios:
        subjects = field.taking_part(scenario)
        for subject in subjects:
            warm(subject, scenario)
        for repetition in range(reps):
            turn = repetition % max(1, len(subjects))
            for subject in (*subjects[turn:], *subjects[:turn]):
                run = measure(subject, scenario, seconds, repetition)
                runs.append(run)
                print(
                    f"{scenario.name} {repetition + 1}/{reps} {subject.name}: {run.cpu_us:.1f} µs, "
                    f"{run.load.answers_per_second:.0f}/s {run.load.errors or ''}",
                    file=sys.stderr,
                )
    order = {subject.name: place for place, subject in enumerate(field.subjects)}
    places = {scenario.name: place for place, scenario in enumerate(scenarios)}
    runs.sort(key=lambda r: (places[r.scenario], order[r.contender], r.repetition))
    return runs


def live_all(field: Field, folder: Path, peers: Path | None, reps: int) -> list[Life]:
    found = []
    names = [contender.name for contender in field.contenders]
    for repetition in range(reps):
        for number, name in enumerate(names):
            place = folder / f"life-{repetition}-{number}"
            try:
                life = live(PEERS[name], name, place, field.mock.port, peers, repetition)
            except PeerError as reason:
                print(f"no life of {name}: {reason}", file=sys.stderr)
                continue
            found.append(life)
            print(
                f"life {repetition + 1}/{reps} {name}: start {life.start_s:.2f} s, "
                f"{life.idle_bytes / 2**20:.0f} MiB",
                file=sys.stderr,
            )
    return found


def split_all(field: Field, reps: int) -> list[Split]:
    forms = [s for s in field.subjects if s.name.endswith(f", {TWO_WORKERS}")]
    return [Split(s.name, rep, split(s.here)) for rep in range(reps) for s in forms]


def machine() -> dict[str, str]:
    """Where and with what this was measured."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    found = {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python build": " ".join(platform.python_build()),
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
    }
    return found | {name: version(name) for name in ("aigw", "uvloop", "h11")}


# --- what is shown and written


def scenario_tables(found: Comparison) -> str:
    """A table for each scenario; `busy` are cores: who has more than the others is the limit."""
    parts = []
    timings = ("p50 ms", "p99 ms", "p99.9", "max", "chunk p99")
    heading = ("", "CPU µs", "req/s", *timings, "busy", "mock", "load", "errors")
    for name, meaning in found.scenarios.items():
        of_it = [median_row(m) for m in found.medians if m.scenario == name]
        if of_it:
            parts.append(f"{name}: {meaning}\n{table([heading, *of_it])}")
    return "\n\n".join(parts)


def median_row(median: Median) -> tuple[str, ...]:
    return (
        median.contender,
        f"{median.cpu_us:.1f}",
        f"{median.answers_per_second:.0f}",
        milliseconds(median.p50_us),
        milliseconds(median.p99_us),
        milliseconds(median.p999_us),
        milliseconds(median.max_us),
        milliseconds(median.chunk_delay_p99_us) if median.chunk_delay_p99_us else "–",
        f"{median.busy:.2f}",
        f"{median.mock_busy:.2f}",
        f"{median.generator_busy:.2f}",
        str(median.errors),
    )


def life_table(found: Sequence[Life]) -> str:
    lines = [("", "start s", "idle MiB", "loaded", "KiB/connection", "KiB/stream")]
    lines += [
        (
            life.contender,
            f"{life.start_s:.3f}",
            f"{life.idle_bytes / 2**20:.1f}",
            f"{life.loaded_bytes / 2**20:.1f}",
            f"{life.connection_bytes / 1024:.1f}",
            f"{life.stream_bytes / 1024:.1f}",
        )
        for life in sorted(found, key=lambda life: list(PEERS).index(life.contender))
    ]
    return f"start and memory, each repetition\n{table(lines)}" if found else ""


def write(found: Comparison, target: Path) -> None:
    """The JSON file, a line for each measurement, and the plots beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    members = []
    for name in found.__struct_fields__:
        value = getattr(found, name)
        text = msgspec.json.encode(value).decode()
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(msgspec.json.encode(item).decode() for item in value) + "\n]"
        members.append(f'"{name}": {text}')
    target.write_text("{\n" + ",\n".join(members) + "\n}\n")
    cpu_plot(found, target.with_name(f"{target.stem}-cpu"))
    if STEADY in found.scenarios:
        latency_plot(found, target.with_name(f"{target.stem}-latency"))


def read(target: Path) -> Comparison:
    return msgspec.json.decode(target.read_bytes(), type=Comparison)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder = os.environ.get("AIGW_PEERS")
    parser.add_argument("--peers", type=Path, default=folder, help="folder of environments")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--only", nargs="*", help="names of peers, or how they begin")
    parser.add_argument("--scenarios", nargs="*", choices=list(BY_NAME), default=list(BY_NAME))
    parser.add_argument("--no-lives", action="store_true", help="neither start nor memory")
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args(argv)


def wanted_peers(only: Sequence[str] | None) -> list[Peer]:
    if only is None:
        return list(PEERS.values())
    begins = tuple(name.lower() for name in only)
    return [peer for name, peer in PEERS.items() if begins and name.lower().startswith(begins)]


def compare(options: argparse.Namespace, folder: Path, stack: ExitStack) -> Comparison:
    about = machine()
    scenarios = [s for s in SCENARIOS if s.name in options.scenarios]
    field = Field(stack, folder, options.peers)
    for peer in wanted_peers(options.only):
        field.start(peer)
        for form in peer.starts_as:
            if any(s.starts_as == form for s in scenarios):
                field.start(peer, form)
    runs = run_all(field, scenarios, options.seconds, options.repetitions)
    splits = split_all(field, options.repetitions)
    lives = []
    if not options.no_lives:
        lives = live_all(field, folder, options.peers, options.repetitions)
    return Comparison(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=about,
        command=f"--seconds {options.seconds:g} --repetitions {options.repetitions}",
        seconds=options.seconds,
        repetitions=options.repetitions,
        scenarios={s.name: s.meaning for s in scenarios},
        contenders=field.contenders,
        skipped=field.skipped,
        medians=medians(runs),
        lives=lives,
        splits=splits,
        runs=runs,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """0 if aigw and the mock were measured without an error, else 1."""
    options = arguments(argv)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # inherited by all that is started
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aigw-bench-")))
        folder.chmod(0o755)
        found = compare(options, folder, stack)
    write(found, options.output)
    print(scenario_tables(found))
    print(life_table(found.lives))
    if goals := rows(found):
        print(table([HEADING, *goals]))
    print(f"written: {options.output}")
    ours = [m for m in found.medians if m.contender.startswith((AIGW.name, DIRECT))]
    return 1 if AIGW.name in found.skipped or any(m.errors for m in ours) else 0


if __name__ == "__main__":
    raise SystemExit(main())
