"""All rows of the requests' tables, by the name of their group and their own."""

from __future__ import annotations

from tests.wire import (
    requests_chunks,
    requests_connection,
    requests_fields,
    requests_length,
    requests_line,
    requests_paths,
)

TABLES = (
    requests_line,
    requests_fields,
    requests_length,
    requests_chunks,
    requests_connection,
    requests_paths,
)
ROWS = [
    (f"{group}: {case.name}", case)
    for table in TABLES
    for group, cases in table.GROUPS.items()
    for case in cases
]
CASES = dict(ROWS)
