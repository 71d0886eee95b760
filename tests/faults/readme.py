"""The README's table of faults, rendered from the committed results, never typed.

python -m tests.faults.readme          writes it between the marks in README.md
"""

from __future__ import annotations

import msgspec

from bench.readme import README, between, markdown
from tests.faults.outcome import NOTHING, RESULT, Expected, Outcome, Results, recovery
from tests.faults.table import FAULTS

BEGIN, END = "<!-- faults of bench/results/faults.json -->", "<!-- end of faults -->"
TELLING = ("idle", "streams", "full-disk")
COLUMNS = ("asked", "lost / duplicated / cut", "told", "recovered after")
HEADING = ("fault", *(f"{server}: {column}" for server in ("aigw", "nginx") for column in COLUMNS))


def read() -> Results:
    return msgspec.json.decode(RESULT.read_bytes(), type=Results)


def faults(found: Results) -> str:
    """What was made where, the table, and what each of a crowd costs."""
    about, servers = found.machine, found.servers
    return "\n\n".join(
        (
            f"One run of `python -m tests.faults --record` on {found.at[:10]}: aigw "
            f"{servers['aigw']} and nginx {servers['nginx']} with the same duties, two workers "
            f"each, {about['cores']} shared cores ({about['cpu']}).",
            markdown(HEADING, [row(found, name) for name in FAULTS]),
            f"Memory is PSS of all processes. {told(found, 'aigw')} {told(found, 'nginx')}",
        )
    )


def row(found: Results, name: str) -> list[str]:
    fault = FAULTS[name]
    return [
        fault.title,
        *(
            cell
            for server in ("aigw", "nginx")
            for cell in cells(found.of(name, server), fault.expected)
        ),
    ]


def cells(outcome: Outcome | None, expected: Expected) -> tuple[str, ...]:
    if outcome is None:
        return (NOTHING,) * len(COLUMNS)
    return (
        f"{outcome.asked:,}",
        f"{outcome.lost:,} / {outcome.duplicated:,} / {outcome.cut:,}",
        f"{outcome.told:,}",
        recovery(outcome, expected),
    )


def told(found: Results, server: str) -> str:
    """What some outcomes say besides their figures."""
    outcomes = (found.of(name, server) for name in TELLING)
    notes = [outcome.note.partition(";")[0] for outcome in outcomes if outcome is not None]
    return f"{server}: {'; '.join(notes)}."


def rendered(readme: str, found: Results) -> str:
    """The README with the table of `found` between its marks."""
    return between(readme, BEGIN, END, faults(found))


if __name__ == "__main__":
    README.write_text(rendered(README.read_text(), read()))
