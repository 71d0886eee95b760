"""What a fault did to the clients, what it may do, and how both are told.

Not here: how the faults are made. Everything is plain values, so that the tests can show that an
expectation which is not met is noticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

RESULT = Path(__file__).parents[2] / "bench" / "results" / "faults.json"
HEADING = ("fault", "asked", "lost", "duplicated", "cut", "told", "recovered after")
NOTHING = "–"


class Outcome(msgspec.Struct, kw_only=True):
    """One run of one fault.

    A request is `lost` if no answer to it began, `cut` if its answer ended before its end and
    looked so, `told` if the server answered 502, 503 or 504 in the upstream's place, `duplicated`
    if the upstreams have seen it more than once. `may_fall` are those that nobody could save:
    a killed process held them, or the upstream itself broke them off. `missed` are sentences about
    what else should have been otherwise.
    """

    asked: int
    lost: int = 0
    duplicated: int = 0
    cut: int = 0
    told: int = 0
    may_fall: int = 0
    recovered_s: float | None = None
    bytes_each: float | None = None
    note: str = ""
    missed: list[str] = []

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note a claim that is not met."""
        if not holds:
            self.missed.append(otherwise)


class Expected(NamedTuple):
    """What must come of a fault: nothing is duplicated, and nobody is lost, cut or told of an error
    but where it says so."""

    recovered_s: float | None = None  # at the latest; None: nothing is to be recovered
    may_fall: bool = False  # those counted in `may_fall`
    told: bool | None = False  # None: perhaps


class Result(msgspec.Struct, frozen=True):
    """An outcome in the file of results."""

    fault: str
    server: str
    outcome: Outcome


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The file of results."""

    at: str
    machine: dict[str, str]
    servers: dict[str, str]  # name -> version
    results: list[Result]

    def of(self, fault: str, server: str) -> Outcome | None:
        found = [r.outcome for r in self.results if (r.fault, r.server) == (fault, server)]
        return found[0] if found else None


def complaints(outcome: Outcome, expected: Expected) -> list[str]:
    """One line for each expectation that is not met."""
    if not outcome.asked:
        return outcome.missed or ["nothing was asked"]
    found = []
    fell, may_fall = outcome.lost + outcome.cut, outcome.may_fall if expected.may_fall else 0
    if fell > may_fall:
        found.append(
            f"{outcome.lost} lost and {outcome.cut} cut of {outcome.asked}, {may_fall} allowed"
        )
    if outcome.duplicated:
        found.append(f"{outcome.duplicated} duplicated")
    if outcome.told and expected.told is False:
        found.append(f"{outcome.told} answered 502, 503 or 504")
    if expected.told and not outcome.told:
        found.append("nobody was told of the error: was there a fault at all?")
    if expected.recovered_s is not None:
        if outcome.recovered_s is None:
            found.append("not recovered")
        elif outcome.recovered_s > expected.recovered_s:
            found.append(
                f"recovered after {outcome.recovered_s:.2f} s, {expected.recovered_s:g} allowed"
            )
    return found + outcome.missed


def cells(outcome: Outcome, expected: Expected) -> tuple[str, ...]:
    """The figures below `HEADING`, but for the fault's name."""
    figures = (outcome.asked, outcome.lost, outcome.duplicated, outcome.cut, outcome.told)
    return (*(f"{figure:,}" for figure in figures), recovery(outcome, expected))


def recovery(outcome: Outcome, expected: Expected) -> str:
    if expected.recovered_s is None:
        return NOTHING
    return "not by itself" if outcome.recovered_s is None else f"{outcome.recovered_s:.2f} s"


def line(name: str, outcome: Outcome, expected: Expected) -> str:
    """A finished fault in one line."""
    figures = zip(HEADING[1:], cells(outcome, expected), strict=True)
    told = ", ".join(f"{head} {figure}" for head, figure in figures)
    return f"{name}: {told}" + (f"; {outcome.note}" if outcome.note else "")
