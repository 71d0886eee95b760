"""Limits and timers go by the monotonic clock: the wall clock is read where a date is wanted.

`python -m tests.faults clock` lets it jump under load. This holds the list of its readers, so that
a new one is a decision.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aigw

PACKAGE = Path(aigw.__file__).parent
# By what a name ends in, as it is written where it is called.
WALL_CLOCK = {
    "time.time",
    "time.time_ns",
    "time.ctime",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
}
# These read it where they are given nothing else.
WITHOUT_ARGUMENTS = {"gmtime", "localtime", "strftime", "formatdate"}
READERS = {
    ("config/describe.py", "time.time"): "whether `aigw check` calls a key expired",
    ("mock/provider.py", "time.time"): "the mock's Date",
    ("proxy/services.py", "time.time"): "Unix time of log lines and of a key's `expires`",
    ("proxy/services.py", "formatdate"): "Date",
}


def readers(source: str) -> Iterator[str]:
    """The calls in that source that read the wall clock."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"time.{a.name}" for a in node.names if f"time.{a.name}" in WALL_CLOCK)
        if isinstance(node, ast.Attribute):
            name = ".".join(ast.unparse(node).split(".")[-2:])
            if name in WALL_CLOCK:
                yield name
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in WITHOUT_ARGUMENTS and len(node.args) < (2 if name == "strftime" else 1):
                yield name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time\nnow = time.time()", ["time.time"]),
        ("from time import time, monotonic", ["time.time"]),
        ("loop.call_at(time.time_ns() / 1e9, act)", ["time.time_ns"]),
        ("datetime.datetime.now(tz)", ["datetime.now"]),
        ("time.gmtime()", ["gmtime"]),
        ("time.strftime('%Y')", ["strftime"]),
        ("formatdate(usegmt=True)", ["formatdate"]),
        ("time.monotonic(); loop.time(); time.gmtime(5); time.strftime('%Y', t)", []),
    ],
)
def test_a_reader_is_found(source: str, found: list[str]) -> None:
    assert list(readers(source)) == found


def test_the_wall_clock_is_read_for_dates_only() -> None:
    found = {
        (str(file.relative_to(PACKAGE)), name)
        for file in PACKAGE.rglob("*.py")
        for name in readers(file.read_text())
    }
    assert found == set(READERS)
