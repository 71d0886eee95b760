"""For tests of shared memory: a writer that dies after so many stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Crash(Exception):  # noqa: N818
    """The writer is gone, in the middle of whatever it did."""


class CrashingWords:
    """A memoryview that lets `stores` assignments through and dies before the next."""

    def __init__(self, words: memoryview[Any], stores: Callable[[], None]) -> None:
        self._words = words
        self._stores = stores

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._stores()
        self._words[at] = value

    def __len__(self) -> int:
        return len(self._words)


class Fuse:
    """Counts the stores of all `CrashingWords` that share it."""

    def __init__(self, stores: int) -> None:
        self.left = stores

    def __call__(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1


def every_crash(act: Callable[[Fuse], None]) -> Iterator[int]:
    """Run `act` with a fuse for 0, 1, 2, … stores until it gets through; yields after each crash.

    `act` prepares a fresh world each time.
    """
    for stores in range(10_000):
        try:
            act(Fuse(stores))
        except Crash:
            yield stores
        else:
            assert stores > 0, "nothing was stored at all"
            return
    raise AssertionError("never got through")
