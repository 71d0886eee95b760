"""The committed counts, by build of Python, and what has become of them.

Instructions of two builds say nothing about each other, so a build is known exactly.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.micro.instructions import Count

BASELINE = Path(__file__).parents[1] / "results" / "micro.json"
# Chance moves a count by 0.2 %, by 1 % where numbers of varying length are printed.
REGRESSION = 0.03

Counts = dict[str, int]


class Baseline(msgspec.Struct):
    """What the file holds: instructions per call, by build and case."""

    builds: dict[str, Counts] = {}


def this_build() -> str:
    version, built = platform.python_version(), platform.python_build()[1]
    return (
        f"{platform.python_implementation()} {version} (built {built}), "
        f"{platform.python_compiler()}, {platform.machine()}"
    )


def read(file: Path) -> Baseline:
    return msgspec.json.decode(file.read_bytes(), type=Baseline) if file.exists() else Baseline()


def save(file: Path, build: str, counts: Sequence[Count]) -> None:
    """Put these counts in; those of other cases and builds stay as they are."""
    baseline = read(file)
    kept = baseline.builds.setdefault(build, {})
    kept.update((count.case, count.instructions) for count in counts if not count.error)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(baseline)) + b"\n")


class Change(NamedTuple):
    """A count beside the committed one. `by` is its relative change, None where there is none."""

    found: Count
    committed: int | None
    by: float | None

    @property
    def verdict(self) -> str:
        if self.found.error:
            return "FAILS"
        if self.by is None or abs(self.by) <= REGRESSION:
            return ""
        return "WORSE" if self.by > 0 else "better"


def compare(counts: Sequence[Count], committed: Mapping[str, int]) -> list[Change]:
    changes = []
    for count in counts:
        before = committed.get(count.case)
        by = None if count.error or not before else count.instructions / before - 1
        changes.append(Change(count, before, by))
    return changes
