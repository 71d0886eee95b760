"""The README's figures, rendered from the committed comparison, never typed.

python -m bench.readme                 writes them between the marks in README.md
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.compare import RESULT, read
from bench.goals import HEADING, rows
from bench.outcome import Comparison, Contender, Life, Median
from bench.peers.aigw import AIGW
from bench.scenarios import CROWD, FIELD_REQUESTS, IDS, SAME, STEADY, STREAMS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- figures of bench/results/compare.json -->", "<!-- end of figures -->"
PEER_HEADING = (
    "who",
    "600 B, µs",
    "heads differ",
    "20 KiB",
    "a stream",
    "a 401",
    "req/s, 64 / 256 conn.",
    "p50 / p99 ms at 500/s",
    "field, s",
    "MiB loaded",
    "start, s",
)
MISSING = "–"


def markdown(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    ruled = [heading, ["---"] * len(heading), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ruled)


def figures(found: Comparison) -> str:
    """Goals against nginx, everybody's figures, and what each of them lacks."""
    about = found.machine
    parts = [
        f"Medians of {found.repetitions} alternating runs on {found.at[:10]}: one worker each "
        f"where a peer has workers, {about['cores']} shared cores ({about['cpu']}), "
        f"{about['python']}, uvloop {about['uvloop']}. CPU is user and system time of the whole "
        "process tree. A ratio is the median of each repetition's own.",
        markdown(HEADING, rows(found)),
        "Everybody on the same load; CPU in µs per request, of a stream in µs per stream of 100 "
        f"chunks; the field's workload is {FIELD_REQUESTS:,} requests of six kinds over 10 "
        "connections:",
        markdown(PEER_HEADING, [peer_row(found, contender) for contender in found.contenders]),
        notes(found),
    ]
    return "\n\n".join(part for part in parts if part)


def peer_row(found: Comparison, contender: Contender) -> list[str]:
    medians = {m.scenario: m for m in found.medians if m.contender == contender.name}
    lives = [life for life in found.lives if life.contender == contender.name]
    name = f"{contender.name} {contender.version}".strip()
    return [
        f"**{name}**" if contender.name == AIGW.name else name,
        *(cpu(medians.get(scenario)) for scenario in (SAME, IDS, "large", STREAMS, "401")),
        " / ".join(throughput(medians.get(scenario)) for scenario in (SAME, CROWD)),
        latency(medians.get(STEADY), contender),
        field_time(medians.get("field"), contender),
        middle(lives, "loaded_bytes", 1 / 2**20, 0),
        middle(lives, "start_s", 1, 2),
    ]


def cpu(median: Median | None) -> str:
    return f"{median.cpu_us:,.0f}" if median is not None else MISSING


def throughput(median: Median | None) -> str:
    return f"{median.answers_per_second:,.0f}" if median is not None else MISSING


def latency(median: Median | None, contender: Contender) -> str:
    if median is None:
        return MISSING
    slower = "" if contender.rate == AIGW.pace.rate else f" ({contender.rate:g}/s)"
    return f"{median.p50_us / 1000:.2f} / {median.p99_us / 1000:.2f}{slower}"


def field_time(median: Median | None, contender: Contender) -> str:
    """How long the whole workload takes at the rate that was measured."""
    if median is None or not median.answers_per_second:
        return MISSING
    partly = "" if len(contender.kinds) == 6 else f" ({len(contender.kinds)} kinds)"
    return f"{FIELD_REQUESTS / median.answers_per_second:,.1f}{partly}"


def middle(lives: Sequence[Life], field: str, scale: float, digits: int) -> str:
    if not lives:
        return MISSING
    return f"{statistics.median(getattr(life, field) for life in lives) * scale:,.{digits}f}"


def notes(found: Comparison) -> str:
    """Which duties were not on, what else is not the same, and what failed."""
    said = []
    for contender in found.contenders:
        lacks = [f"no {', no '.join(contender.missing)}"] if contender.missing else []
        lacks += [contender.note] if contender.note else []
        lacks += [f"{contender.streams} streams at once"] * (contender.streams < AIGW.pace.streams)
        lacks += [
            f"{m.errors} of {m.answers + m.errors} failed in `{m.scenario}`"
            for m in found.medians
            if m.contender == contender.name and m.errors
        ]
        if lacks:
            said.append(f"{contender.name}: {'; '.join(lacks)}")
    said += [f"{name}: skipped" for name in found.skipped]
    return f"Not the same for all: {'. '.join(said)}." if said else ""


def rendered(readme: str, found: Comparison) -> str:
    """The README with the figures of `found` between its marks."""
    return between(readme, BEGIN, END, figures(found))


def between(readme: str, begin: str, end: str, text: str) -> str:
    """The README with this text between two of its marks."""
    before, _, rest = readme.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def main() -> None:
    README.write_text(rendered(README.read_text(), read(RESULT)))


if __name__ == "__main__":
    main()
