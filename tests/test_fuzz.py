"""The fuzzers themselves: each runs briefly, tries what it should, and finds what is put wrong.

What they have found stands as cases beside the tests of what was at fault (`test_wire_framing.py`,
`test_config_load.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from aigw.config import readers
from aigw.wire import framing, gate
from tests.fuzz import answers, bodies, bulk, configuration, conversations, requests, upstreams
from tests.fuzz.bulk import Bounds, Counts, FoundError
from tests.running import ROOT
from tests.twins import policies

# Fuzzer, tries, and the least part of them that must have come to each end.
BRIEFLY = [
    (requests.attempt, 400, {"accepted": 0.1, "refused": 0.1}),
    (bodies.attempt, 200, {"chunked, ended": 0.1, "chunked, refused": 0.1, "at every cut": 0.05}),
    (answers.attempt, 100, {"whole": 0.1, "refused": 0.1, "cut": 0.01, "waiting": 0.01}),
    (configuration.attempt, 40, {"valid": 0.05, "refused": 0.3}),
    (upstreams.attempt, 20, {"whole": 0.1, "refused": 0.1, "answered after it": 1.9}),
    (conversations.attempt, 40, {"seen upstream": 0.5, "answered": 1.0, "closed": 0.1}),
]


@pytest.fixture(autouse=True, scope="module")
def off_stage() -> Iterator[None]:
    yield
    for stage in (conversations.stage, upstreams.stage):
        if stage.cache_info().currsize:
            stage().close()
            stage.cache_clear()


def test_each_is_run_by_ci() -> None:
    folder = Path(bulk.__file__).parent
    fuzzers = {file.stem for file in folder.glob("*.py") if "__main__" in file.read_text()}
    (listed,) = re.findall(r"for name in (.*); do", (ROOT / ".ci" / "run").read_text())
    assert set(listed.split()) == fuzzers


@pytest.mark.parametrize(("attempt", "tries", "least"), BRIEFLY)
def test_each_runs_and_tries_both_good_and_bad(
    attempt: bulk.Try, tries: int, least: dict[str, float]
) -> None:
    counts = bulk.run(attempt, Bounds(seed=7, count=tries))
    assert counts["tries"] == tries
    for kind, part in least.items():
        assert counts[kind] >= part * tries, (kind, counts)


def test_a_seed_gives_the_same_inputs() -> None:
    kinds = (requests, answers, configuration, conversations)  # `upstreams` makes answers
    for make in (*(kind.make for kind in kinds), bodies.make_chunks):
        one, again, other = (make(Random(f"{seed} 5")) for seed in (1, 1, 2))
        assert one == again
        assert one != other


def test_a_finding_says_how_to_repeat_it() -> None:
    tried: list[float] = []

    def attempt(random: Random, counts: Counts) -> None:
        tried.append(random.random())
        assert len(tried) < 4, "the fourth is wrong"

    with pytest.raises(FoundError, match=r"--seed 3 --from 3 --count 1: .*fourth is wrong"):
        bulk.run(attempt, Bounds(seed=3))
    fourth = tried[3]
    tried.clear()
    bulk.run(attempt, Bounds(seed=3, first=3, count=1))
    assert tried == [fourth]


# A rule of the gate, and a head that only this rule keeps out.
RULES = [
    ("repeated", b"GET /v1 HTTP/1.1\r\nHost: gw\r\nX-API-Key: a\r\nX-API-Key: b\r\n\r\n"),
    ("disguised", b"GET /v1 HTTP/1.1\r\nHost: gw\r\nX-API-Key: a\r\nX_API_Key: b\r\n\r\n"),
    (
        "one_framing",
        b"POST /v1 HTTP/1.1\r\nHost: gw\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    ("version", b"GET /v1 HTTP/1.2\r\nHost: gw\r\n\r\n"),
    ("method", b"TRACE /v1 HTTP/1.1\r\nHost: gw\r\n\r\n"),
]


@pytest.mark.parametrize(("rule", "raw"), RULES)
def test_a_rule_that_is_missing_is_noticed(
    rule: str, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert requests.check(raw, policies()[0]) is False
    monkeypatch.setitem(gate.REQUEST_RULES, rule, lambda asked: None)
    with pytest.raises(AssertionError):
        requests.check(raw, policies()[0])


@pytest.mark.parametrize("odd", [b"X: a\n", b"X: a\r\n b\r\n", b"X: a\x01\r\n"])
def test_octets_that_are_let_through_are_noticed(
    odd: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = b"GET /v1 HTTP/1.1\r\nHost: gw\r\n" + odd + b"\r\n"
    assert requests.check(raw, policies()[0]) is False
    monkeypatch.setattr(gate, "has_forbidden_octets", lambda head: False)
    with pytest.raises(AssertionError):
        requests.check(raw, policies()[0])


def test_a_credential_that_passes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"GET /v1 HTTP/1.1\r\nHost: gw\r\nX-API-Key: user1\r\n\r\n"
    assert requests.check(raw, policies()[1])
    monkeypatch.setattr(requests, "gateway_fields", lambda keys, fields: frozenset())
    with pytest.raises(AssertionError):
        requests.check(raw, policies()[1])


def test_a_chunk_scanner_that_is_lax_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    lax = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})(?:;[^\n]*|[ \t]*)\r\n")
    monkeypatch.setattr(framing, "SIZE_LINE", lax)
    with pytest.raises(FoundError):
        bulk.run(bodies.attempt, Bounds(seed=1, count=2000))


def test_an_answer_with_two_framings_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gate.ANSWER_RULES, "one_framing", lambda answered: None)
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    outcome = answers.relayed([data], b"GET", False)
    with pytest.raises(AssertionError):
        answers.check_whole(outcome, data, b"GET")


def test_a_request_of_two_lengths_is_noticed_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    two = (
        b"POST /v1/x HTTP/1.1\r\nHost: gw\r\nX-API-Key: user1\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    conversations.converse([two], Counts())
    monkeypatch.setitem(gate.REQUEST_RULES, "one_framing", lambda asked: None)
    with pytest.raises(AssertionError, match="upstream has got"):
        conversations.converse([two], Counts())


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FRAMED_BY_END = b"HTTP/1.1 200 OK\r\n\r\nok"
# What the upstream sends and how it ends; what the client got, and what the next one did.
WRONG_ANSWERS = [
    (OK, "open", OK.replace(b"ok", b"no"), OK),
    (OK, "open", OK, upstreams.FORGED),
    (OK + upstreams.FORGED, "open", OK, OK + upstreams.FORGED),
    (OK[:-1], "fin", OK, OK),
    (FRAMED_BY_END, "rst", OK, OK),
]


@pytest.mark.parametrize(("sent", "end", "got", "then"), WRONG_ANSWERS)
def test_a_wrong_answer_is_noticed(
    sent: bytes, end: str, got: bytes, then: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = upstreams.Script([sent], end)
    stage = upstreams.stage()
    monkeypatch.setattr(stage, "play", lambda *_: (OK, [(OK, b"ok")]))
    upstreams.play(upstreams.Script([OK], "open"), b"GET", Counts())
    monkeypatch.setattr(stage, "play", lambda *_: (got, [(then, b"ok")]))
    with pytest.raises(AssertionError):
        upstreams.play(script, b"GET", Counts())


def test_a_secret_that_is_quoted_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = configuration.bases()[2].replace('"plain-S3CRET"', "['plain-S3CRET']")
    assert configuration.check(text.encode()) == "refused"
    monkeypatch.setattr(readers, "type_word", repr)
    with pytest.raises(AssertionError, match="S3CRET"):
        configuration.check(text.encode())
