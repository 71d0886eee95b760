"""Every row of the tables of requests, in whichever pieces its bytes come.

The tables are `tests/wire/requests_*.py`; `requests_case.py` there says what a row is, `spying.py`
how it is tried and judged.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wire.requests_tables import CASES, ROWS
from tests.wire.spying import WAYS, Check, spying


@pytest.fixture(scope="module")
def check() -> Iterator[Check]:
    with spying() as check:
        yield check


@pytest.mark.parametrize("name", CASES)
def test_a_request(name: str, check: Check) -> None:
    check(CASES[name], WAYS)


def test_every_row_has_a_name_of_its_own_and_a_section() -> None:
    assert len(CASES) == len(ROWS) > 220
    assert all(case.section for case in CASES.values())
