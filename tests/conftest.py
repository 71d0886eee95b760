"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from recognising import recognise_at_first_sight


@pytest.fixture(params=["parsed", "recognised", "express"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test on every lane: heads read by h11, plain heads recognised by a template, and
    recognised with a warm connection at hand, which is what the express lane asks for."""
    if request.param != "parsed":
        recognise_at_first_sight(monkeypatch)
        monkeypatch.setattr("conversation.WARM", request.param == "express")
    else:
        never: Callable[..., None] = lambda *_: None  # noqa: E731
        monkeypatch.setattr("aigw.proxy.known.KnownRequests.find", never)
        monkeypatch.setattr("aigw.upstreams.known.KnownAnswers.find", never)
