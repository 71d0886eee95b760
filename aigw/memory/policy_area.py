"""Where the compiled policy lies, so that every worker loads the same one, whenever it starts.

Two areas take turns: version v lies in area v mod 2, and the version word is written last.  So a
reader never waits for a writer, and a writer that dies half-way has changed nothing.  A reader so
late that its area is being written again notices it (the area's own version, then the checksum)
and starts over with the newer version.  What the bytes mean is the business of `policy`.
"""

from __future__ import annotations

import time
import zlib

from aigw.errors import StartError
from aigw.memory.layout import POLICY_BYTES, POLICY_HEAD_WORDS, WORD_BYTES, Layout
from aigw.memory.words import Control, Word, WordRow

# A worker looks four times a second; who has not taken a new policy by then hangs.  The controller
# has it replaced, and it admits nothing any more should it wake up.
ACKNOWLEDGE_S = 2.0


class PolicyTooLarge(StartError):  # noqa: N818
    """The compiled policy does not fit: far too many keys, routes or certificates."""


class _Area(WordRow):
    """The head of one area."""

    __slots__ = ("data",)

    version = Word(0)  # 0 while the bytes are being written
    length = Word(1)
    checksum = Word(2)

    def __init__(self, words: memoryview[int], base: int, data: memoryview[int]) -> None:
        super().__init__(words, base)
        self.data = data


class PolicyArea:
    """One writer (the master before the fork, then the controller), any number of readers."""

    def __init__(self, shared: memoryview[int], control: Control, layout: Layout) -> None:
        self._control = control
        # The word behind `version`, for who looks at each request: 0.1 µs less than the property.
        self.version_word = control.view(Control.policy_version)
        self._areas = tuple(_area(shared, base) for base in layout.policies)

    @property
    def version(self) -> int:
        """The version published last, counted from 1; 0 = none yet.  One load: look often."""
        return self._control.policy_version

    @property
    def published_at_ns(self) -> int:
        """When that was, CLOCK_MONOTONIC."""
        return self._control.policy_published_at_ns

    def publish(self, blob: bytes) -> int:
        """Make these bytes the policy of all; returns the new version.  PolicyTooLarge."""
        if len(blob) > POLICY_BYTES:
            raise PolicyTooLarge(
                f"the compiled policy takes {len(blob)} bytes, the limit is {POLICY_BYTES}: "
                "use fewer keys, routes or certificates"
            )
        version = self.version + 1
        area = self._areas[version % 2]
        area.version = 0
        area.data[: len(blob)] = blob
        area.length = len(blob)
        area.checksum = zlib.crc32(blob)
        area.version = version
        self._control.policy_published_at_ns = time.monotonic_ns()
        self._control.policy_version = version
        return version

    def read(self) -> tuple[int, bytes]:
        """The newest version and its bytes; (0, b"") before the first.

        RuntimeError when the bytes are damaged although nobody wrote: then the mapping is broken.
        """
        while True:
            version = self.version
            if version == 0:
                return 0, b""
            area = self._areas[version % 2]
            if area.version == version:
                blob = bytes(area.data[: area.length])
                if zlib.crc32(blob) == area.checksum and area.version == version:
                    return version, blob
            if self.version == version:
                raise RuntimeError(f"policy version {version} is damaged in shared memory")


def _area(shared: memoryview[int], base_words: int) -> _Area:
    start = (base_words + POLICY_HEAD_WORDS) * WORD_BYTES
    return _Area(shared.cast("q"), base_words, shared[start : start + POLICY_BYTES])
