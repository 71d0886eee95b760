"""When a loop that is late counts as overloaded, and when no longer."""

from __future__ import annotations

import pytest

from aigw.proxy.lag import Lag

INTERVAL_S = 0.25

# how late each sweep is, in milliseconds; how it stands after each of them
LATENESS = {
    "in time": ([0, 0, 5, 0, 20], "....."),
    "once, however late": ([0, 60_000, 0, 0], "...."),
    "twice of four": ([600, 0, 0, 600, 600, 0], "......"),
    "three in a row": ([600, 600, 600], "..O"),
    "three of four": ([600, 600, 200, 600], "...O"),
    "three of five": ([600, 200, 200, 600, 600], "....."),
    "not late enough": ([490, 490, 490, 490, 490], "....."),
    "until it is below the lower mark": ([510, 510, 510, 490, 300, 110, 90, 0], "..OOOO.."),
    "late again after it": ([600, 600, 600, 0, 600, 600, 600], "..O.OOO"),
}


@pytest.mark.parametrize("name", LATENESS)
def test_lateness(name: str) -> None:
    lateness_ms, expected = LATENESS[name]
    lag, now_s = Lag(INTERVAL_S), 1e6
    lag.swept(now_s)
    stood = ""
    for late_ms in lateness_ms:
        before = lag.is_overloaded
        now_s += INTERVAL_S + late_ms / 1000
        changed = lag.swept(now_s)
        assert changed is (before is not lag.is_overloaded)
        stood += "O" if lag.is_overloaded else "."
    assert stood == expected
