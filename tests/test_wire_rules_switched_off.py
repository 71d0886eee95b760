"""What comes in at each door that the gate closes: its rules, switched off one at a time.

For each rule stands at least one row of the tables of requests or answers that goes wrong without
it.  With all rules the same rows are tried in `test_wire_requests.py` and `test_wire_answers.py`.
Behind them stand defences that are no rules of the gate, switched off in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from aigw.wire import gate
from tests.wire.answers_case import End
from tests.wire.answers_stage import Theatre
from tests.wire.answers_tables import CASES as ANSWERS
from tests.wire.requests_tables import CASES as REQUESTS
from tests.wire.spying import WAYS, Check, spying

REQUEST_RULES = {
    "octets": [
        "value: control character 0x01",
        "line: a folded line",
        "line: a bare LF in a value",
    ],
    "version": ["version: HTTP/1.2"],
    "method": ["method: TRACE would show the credential"],
    "target": ["target: a fragment"],
    "repeated": ["key: X-API-Key twice"],
    "disguised": ["disguise: Content_Length is a disguise"],
    "host": ["host: a Host with a path"],
    "one_length": ["lengths: two equal lengths", "lengths: a list of equal lengths"],
    "length": ["length: 19 digits"],
    "one_framing": ["length and coding: length, then chunked"],
    "chunks": ["coding: HTTP/1.0"],
}
ANSWER_RULES = {
    "version": ["status-version-1.2"],
    "status": ["status-code-600"],
    "one_framing": ["coding-and-length", "coding-behind-length"],
    "chunks": ["coding-in-1.0"],
    "length": ["length-of-19-digits"],
    "octets": ["status-reason-with-escape", "field-ctrl-a-in-a-cookie"],
}
# Where it is, what it is replaced by, and the rows of requests that go wrong then.
DEFENCES: dict[str, tuple[object, list[str]]] = {
    "aigw.wire.rewrite.NOT_REMOVABLE": (
        frozenset(),
        ["named: it names Content-Length", "named: it names the client's own credential"],
    ),
    "aigw.wire.rewrite.REQUEST_WITHHELD": (
        frozenset({b"host", b"connection", b"transfer-encoding"}),
        ["withheld: Cookie", "expect: 100-continue"],
    ),
    "aigw.wire.framing.SIZE_LINE": (
        re.compile(rb"[ \t]*(?:0x)?([0-9A-Fa-f]{1,15})[^\n]*\n"),
        ["chunk: a bare LF behind a size", "chunk: 0x", "extension: a bare CR in an extension"],
    ),
    "aigw.proxy.admission.leaves_route": (
        lambda *_: False,
        ["dots: into a closed route", "encoded: encoded dots", "dots: out of the route"],
    ),
    "aigw.proxy.state.gateway_fields": (
        lambda *_: frozenset(),
        ["key: the key does not go to the client's own upstream"],
    ),
    "aigw.proxy.client.ClientConnection.may_stay": (lambda *_: True, ["option: close"]),
}


@pytest.fixture
def check() -> Iterator[Check]:
    with spying() as check:
        yield check


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    theatre = Theatre()
    yield theatre
    theatre.close()


def test_all_rules_are_here() -> None:
    assert list(REQUEST_RULES) == list(gate.REQUEST_RULES)
    assert sorted(ANSWER_RULES) == sorted(gate.ANSWER_RULES)


@pytest.mark.parametrize("rule", REQUEST_RULES)
def test_without_a_rule_on_requests(
    rule: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(gate.REQUEST_RULES, rule)
    assert REQUEST_RULES[rule]
    for name in REQUEST_RULES[rule]:
        goes_wrong(name, check)


@pytest.mark.parametrize("rule", ANSWER_RULES)
def test_without_a_rule_on_answers(
    rule: str, theatre: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They end, so that nobody waits for a body that never comes.
    cases = [case._replace(ends=End.FIN) for case in ANSWERS if case.id in ANSWER_RULES[rule]]
    assert len(cases) == len(ANSWER_RULES[rule]) > 0
    assert not any(theatre.wrongs(case) for case in cases)
    monkeypatch.delitem(gate.ANSWER_RULES, rule)
    assert all(theatre.wrongs(case) for case in cases)


@pytest.mark.parametrize("place", DEFENCES)
def test_without_another_defence(place: str, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    replacement, names = DEFENCES[place]
    monkeypatch.setattr(place, replacement)
    for name in names:
        goes_wrong(name, check)


def goes_wrong(name: str, check: Check) -> None:
    with pytest.raises(AssertionError):
        check(REQUESTS[name], WAYS[:1])
