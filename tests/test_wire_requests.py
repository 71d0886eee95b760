"""Every row of the tables of requests, in whichever pieces its bytes come.

The tables are `tests/wire/requests_*.py`; `requests_case.py` there says what a row is, `spying.py`
how it is tried and judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from tests.wire import (
    requests_chunks,
    requests_connection,
    requests_fields,
    requests_length,
    requests_line,
    requests_paths,
)
from tests.wire.spying import WAYS, Spied

TABLES = (
    requests_line,
    requests_fields,
    requests_length,
    requests_chunks,
    requests_connection,
    requests_paths,
)
CASES = {
    f"{group}: {case.name}": case
    for table in TABLES
    for group, cases in table.GROUPS.items()
    for case in cases
}


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def spied(runner: asyncio.Runner) -> Iterator[Spied]:
    spied = Spied()
    runner.run(spied.__aenter__())
    yield spied
    runner.run(spied.__aexit__())


@pytest.mark.parametrize("name", CASES)
def test_a_request(name: str, runner: asyncio.Runner, spied: Spied) -> None:
    for way in WAYS:
        try:
            runner.run(spied.check(CASES[name], way))
        except (AssertionError, TimeoutError) as error:
            error.add_note(f"{way}\nsent {CASES[name].sent!r}")
            raise


def test_every_row_has_a_name_of_its_own() -> None:
    rows = [case for table in TABLES for cases in table.GROUPS.values() for case in cases]
    assert len(CASES) == len(rows) > 220
    assert all(case.section for case in rows)
