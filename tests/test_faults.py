"""The fault scripts judge: what is not met is told, and the README shows what was recorded.

The faults themselves take minutes, and are a step of their own in .ci/run.
"""

from __future__ import annotations

import msgspec
import pytest

from bench.readme import README
from tests.faults import __main__ as script
from tests.faults.outcome import Expected, Outcome, complaints, line
from tests.faults.readme import faults, read, rendered
from tests.faults.servers import Aigw, Nginx
from tests.faults.table import FAULTS, Fault
from tests.faults.traffic import Ledger

FELL = Expected(1.0, may_fall=True)
NOT_MET: list[tuple[Outcome, Expected, str]] = [
    (Outcome(asked=9, lost=1), Expected(), "1 lost and 0 cut of 9, 0 allowed"),
    (Outcome(asked=9, cut=2, may_fall=2), Expected(), "0 lost and 2 cut of 9, 0 allowed"),
    (Outcome(asked=9, lost=2, cut=1, may_fall=2, recovered_s=0), FELL, "2 lost and 1 cut of 9"),
    (Outcome(asked=9, duplicated=1), Expected(), "1 duplicated"),
    (Outcome(asked=9, told=3), Expected(), "3 answered 502, 503 or 504"),
    (Outcome(asked=9), Expected(told=True), "was there a fault at all"),
    (Outcome(asked=0), Expected(), "nothing was asked"),
    (Outcome(asked=9), Expected(1.0), "not recovered"),
    (Outcome(asked=9, recovered_s=1.5), Expected(1.0), "recovered after 1.50 s, 1 allowed"),
    (Outcome(asked=9, missed=["another thing"]), Expected(), "another thing"),
]
MET: list[tuple[Outcome, Expected]] = [
    (Outcome(asked=9), Expected()),
    (Outcome(asked=9, lost=1, cut=1, may_fall=2, recovered_s=1.0), FELL),
    (Outcome(asked=9, told=3), Expected(told=True)),
    (Outcome(asked=9, told=3), Expected(told=None)),
    (Outcome(asked=9), Expected(told=None)),
]


@pytest.mark.parametrize(("outcome", "expected", "complaint"), NOT_MET)
def test_what_is_not_met_is_told(outcome: Outcome, expected: Expected, complaint: str) -> None:
    (told,) = complaints(outcome, expected)
    assert complaint in told


@pytest.mark.parametrize(("outcome", "expected"), MET)
def test_what_is_met_is_not_complained_of(outcome: Outcome, expected: Expected) -> None:
    assert complaints(outcome, expected) == []


def test_an_outcome_in_one_line() -> None:
    outcome = Outcome(asked=1234, lost=2, cut=1, recovered_s=0.5, note="as it is")
    assert line("fault", outcome, Expected(1.0)) == (
        "fault: asked 1,234, lost 2, duplicated 0, cut 1, told 0, recovered after 0.50 s; as it is"
    )
    assert line("fault", Outcome(asked=1), Expected()).endswith("recovered after –")
    assert line("fault", Outcome(asked=1), FELL).endswith("recovered after not by itself")


def scene(outcome: Outcome) -> Fault:
    async def make(*_: object) -> Outcome:
        return outcome

    return Fault("a title", make, Expected())


async def broken(*_: object) -> Outcome:
    raise OSError("no such thing")


def test_the_exit_status_tells_of_what_was_not_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = {"well": scene(Outcome(asked=9)), "ill": scene(Outcome(asked=9, lost=1))}
    monkeypatch.setattr(script, "FAULTS", fault | {"broken": Fault("", broken, Expected())})
    assert script.main(["well"]) == 0
    assert "NOT MET" not in capsys.readouterr().out
    assert script.main(["well", "ill"]) == 1
    assert "ill: NOT MET: 1 lost and 0 cut of 9, 0 allowed" in capsys.readouterr().out
    assert script.main(["broken", "well"]) == 1
    said = capsys.readouterr()
    assert "broken: NOT MET: OSError: no such thing" in said.out
    assert "well: asked 9" in said.out
    for wrong in (["unknown"], ["well", "--record"]):
        with pytest.raises(SystemExit, match="2"):
            script.main(wrong)


def test_a_number_that_arrives_twice_is_duplicated() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.arrived[ledger.number().encode()] += 1
    assert (ledger.asked, ledger.duplicated) == (3, 0)
    ledger.arrived[b"2"] += 1
    assert ledger.duplicated == 1


def test_all_faults_are_recorded_and_were_as_expected() -> None:
    found = read()
    for name, fault in FAULTS.items():
        outcome = found.of(name, Aigw.name)
        assert outcome is not None, name
        assert complaints(outcome, fault.expected) == [], name
        assert (found.of(name, Nginx.name) is not None) == fault.nginx, name


def test_the_readme_shows_what_was_recorded() -> None:
    found = read()
    readme = README.read_text()
    assert rendered(readme, found) == readme
    assert faults(found) in readme
    other = msgspec.structs.replace(found, at="2020-01-01")
    assert rendered(readme, other) != readme
