"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from conversation import Clock
from hypothesis import HealthCheck, settings
from recognising import recognise_at_first_sight

# How long an example takes says something of the machine only.
settings.register_profile("aigw", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("aigw")


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where Python may not write bytecode beside the sources, each of the hundred programs that the
    tests start would compile all that it imports: they share a folder for it."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):
            base = tmp_path_factory.getbasetemp()
            shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(shared / "bytecode"))
        yield


@pytest.fixture(params=["parsed", "gathered"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test on the slowest lane and on the one that differs most from it."""
    take_lane(request.param, monkeypatch)


@pytest.fixture(params=["parsed", "recognised", "express", "gathered"])
def every_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test on every lane."""
    take_lane(request.param, monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the gateway in this process takes for the time (uvloop has a clock of its own)."""
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def take_lane(lane: str, patch: pytest.MonkeyPatch) -> None:
    """Heads read by h11, plain heads recognised by a template, or recognised with a warm
    connection at hand, which is what the express lane asks for (what is not plain there takes the
    way of the recognised); there each at once, or gathered until the end of the turn, as a busy
    loop does."""
    if lane == "parsed":
        never: Callable[..., None] = lambda *_: None  # noqa: E731
        patch.setattr("aigw.proxy.known.KnownRequests.find", never)
        patch.setattr("aigw.upstreams.known.KnownAnswers.find", never)
        return
    recognise_at_first_sight(patch)
    patch.setattr("conversation.WARM", lane in ("express", "gathered"))
    if lane == "gathered":
        patch.setattr("aigw.proxy.express.GATHER_FROM", 0)
