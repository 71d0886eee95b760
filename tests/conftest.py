"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from recognising import recognise_at_first_sight


@pytest.fixture(params=["parsed", "recognised"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test twice: every head read by h11, and every plain head recognised by a template."""
    if request.param == "recognised":
        recognise_at_first_sight(monkeypatch)
    else:
        never: Callable[..., None] = lambda *_: None  # noqa: E731
        monkeypatch.setattr("aigw.proxy.known.KnownRequests.find", never)
        monkeypatch.setattr("aigw.upstreams.known.KnownAnswers.find", never)
